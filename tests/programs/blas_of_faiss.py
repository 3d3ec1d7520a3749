"""Print what processor each OpenBLAS works for, after a k-means has loaded faiss."""

import os

import numpy as np
from threadpoolctl import threadpool_info

from letkd_keras.prototypes.kmeans import kmeans

kmeans(np.eye(3, dtype="float32"), 1, iterations=1)
for library in threadpool_info():
    if library["internal_api"] == "openblas":
        owner = "faiss" if "faiss" in library["filepath"] else "other"
        print(owner, library["architecture"])
print("environment", os.environ.get("OPENBLAS_CORETYPE"))
