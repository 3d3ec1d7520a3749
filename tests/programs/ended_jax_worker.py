"""A command whose only worker of `jax.distributed` gets SIGTERM. It must end with status 143."""

import os
import signal
import time

from letkd_keras.commands.command_line import run_main
from letkd_keras.recipes.workers.jax_worker_group import JaxWorkerGroup


def main():
    JaxWorkerGroup(1, 0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


if __name__ == "__main__":
    run_main(main)
