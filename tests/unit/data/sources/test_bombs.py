"""Small files that unpack to gigabytes are read in bounded memory, or refused; under a limit of the system."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

READ = """
import resource, sys
from itertools import islice
from pathlib import Path
from recsys.data.sources import reading
from recsys.errors import InputError

size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (600 << 20), size + (600 << 20)))
try:
    blocks = reading.read_blocks(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])
    print(*[sum(len(block.lines) + len(block.rejected) for block in islice(blocks, 2)), "records"])
except InputError as error:
    print(error)
"""
HEAD = b"user_id,item_id,ts\nu1,a,2024-05-01\n"
EVENT = "user_id,item_id,ts"
MIB = 1 << 20


def packed(path: Path, piece: bytes, times: int, head: bytes = HEAD) -> None:
    path.write_bytes(gzip.compress(head) + gzip.compress(piece) * times)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.csv", "w") as file:
        file.write(HEAD)
        for _ in range(800):
            file.write(b"x" * MIB)


def in_a_dictionary(path: Path) -> None:
    n = 3_000_000
    users = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["x" * 100_000]))
    zeros = pa.array(np.zeros(n, np.int64))
    pyarrow.parquet.write_table(pa.table({"user_id": users, "item_id": zeros, "ts": zeros}), path)


def in_one_page(path: Path) -> None:
    users = pa.array(["x" * 100_000] * 12_000)
    pyarrow.parquet.write_table(pa.table({"user_id": users}), path, compression="zstd", use_dictionary=False)


def lists_of_zeros(path: Path) -> None:
    offsets = pa.array(np.arange(0, 101) * 1_000_000, pa.int32())
    zeros = pa.array(np.zeros(100_000_000, np.int8))
    table = pa.table({"item_id": list(map(str, range(100))), "tags": pa.ListArray.from_arrays(offsets, zeros)})
    pyarrow.parquet.write_table(table, path, compression="zstd")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux'")
@pytest.mark.parametrize(
    ("name", "make", "columns", "expected"),
    [
        ("zeros.csv.gz", lambda path: packed(path, b"\0" * (16 * MIB), 50), [EVENT], "2 records"),
        ("letters.csv.gz", lambda path: packed(path, b"x" * (16 * MIB), 50), [EVENT], "2 records"),
        ("one-line.csv.gz", lambda path: packed(path, b"x" * (16 * MIB), 50, b""), [EVENT], "first line does not end"),
        ("lines.csv.gz", lambda path: packed(path, b"x\n" * (8 * MIB), 50), [EVENT], "records"),
        ("blank.csv.gz", lambda path: packed(path, b"\n" * (16 * MIB), 50), [EVENT], "1 records"),
        ("rows.csv.gz", lambda path: packed(path, b",,\n" * (5 * MIB), 40), [EVENT], "records"),
        ("objects.jsonl.gz", lambda path: packed(path, b"{}\n" * (5 * MIB), 40, b'{"a":1}\n'), ["a"], "records"),
        ("wide.csv", lambda path: path.write_bytes(b"a," * MIB), [EVENT], "more than 10,000 columns"),
        ("letters.zip", zipped, [EVENT], "2 records"),
        ("dictionary.parquet", in_a_dictionary, [EVENT], "records"),
        ("page.parquet", in_one_page, ["user_id"], "'user_id' would unpack to 1.2 GB at once"),
        ("lists.parquet", lists_of_zeros, ["item_id", "tags"], "records"),
    ],
)
@pytest.mark.slow
def test_memory_is_bounded(tmp_path, name, make, columns, expected):
    make(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 4 * MIB
    call = [sys.executable, "-c", READ, str(tmp_path / name), *columns]
    done = subprocess.run(call, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert expected in done.stdout
