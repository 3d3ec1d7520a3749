import zipfile


def encrypt(path):
    """Mark all entries of a zip file as encrypted, so that readers ask for a password."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    content = bytearray(path.read_bytes())
    # The first flag of each entry, and of each header in the list at the end of the archive.
    position = content.index(b"PK\x01\x02")
    for entry in entries:
        content[entry.header_offset + 6] |= 1
        content[position + 8] |= 1
        position = content.find(b"PK\x01\x02", position + 1)
    path.write_bytes(content)
