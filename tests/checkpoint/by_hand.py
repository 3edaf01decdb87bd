"""Archives of .npz and .safetensors made by hand, as no program would."""

import io
import json
import struct
import zipfile

import numpy as np


def members(path, parts, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in parts:
            archive.writestr(name, data)


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def header(shape, descr="'<f8'", more=b""):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + more


def npz_parts(*parts, **options):
    return lambda path: members(path, parts, **options)


def tensors(entries, data=b"", length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    length = len(text) if length is None else length
    return lambda path: path.write_bytes(struct.pack("<Q", length) + text + data)


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}
