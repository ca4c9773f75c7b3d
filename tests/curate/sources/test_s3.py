"""Sources on S3, against a real S3 server (moto's) on loopback and the real client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.sources import SourceError, SourceSpec, read_reported, read_source
from curate.sources.opening import find_files, fingerprint

ROWS = [{"id": f"r{n}", "prompt": f"What is {n}?", "completion": "A number."} for n in range(2000)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture
def bucket(monkeypatch):
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3

    server = server_module.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="pool")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # it would keep the address of an earlier test's server
    yield client
    server.stop()


def put(client, key: str, content: bytes, codec: str | None = None) -> None:
    if codec:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(content)
        content = sink.getvalue().to_pybytes()
    client.put_object(Bucket="pool", Key=key, Body=content)


def ids(path: str) -> list[str]:
    return [row.id for row in read_source(SourceSpec(path=path))]


@pytest.mark.slow
def test_files_folders_patterns_and_compression(bucket):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    put(bucket, "sets/a.parquet", sink.getvalue().to_pybytes())
    put(bucket, "sets/b.jsonl.zst", LINES.replace(b'"r', b'"s'), "zstd")
    put(bucket, "sets/deep/c.jsonl.gz", LINES.replace(b'"r', b'"t'), "gzip")
    put(bucket, "sets/notes.txt", b"no data")
    put(bucket, "sets/.hidden/d.jsonl", LINES)
    expected = [row["id"] for row in ROWS]
    assert ids("s3://pool/sets/a.parquet") == expected
    assert ids("s3://pool/sets/b.jsonl.zst") == [name.replace("r", "s") for name in expected]
    assert [file.name for file in find_files("s3://pool/sets/**/*.gz")] == ["s3://pool/sets/deep/c.jsonl.gz"]
    pool = read_reported([SourceSpec(path="s3://pool/sets")], "pool")
    assert len(pool.examples) == 6000 and pool.reports[0].sources == {"sets": 6000}
    assert [file.file for file in pool.reports[0].files] == [
        "s3://pool/sets/a.parquet",
        "s3://pool/sets/b.jsonl.zst",
        "s3://pool/sets/deep/c.jsonl.gz",
    ]
    assert pool.examples[0].origin == "s3://pool/sets/a.parquet:1"


@pytest.mark.slow
def test_the_fingerprint_follows_the_objects(bucket):
    put(bucket, "a.jsonl", b'{"a": 1}\n')
    first = fingerprint("s3://pool/*.jsonl")
    assert fingerprint("s3://pool/*.jsonl") == first
    put(bucket, "a.jsonl", b'{"a": 2}\n')  # of the same length
    assert fingerprint("s3://pool/*.jsonl") != first


@pytest.mark.slow
def test_what_is_not_there_cut_or_gone_is_refused(bucket):
    for url in ("s3://pool/none.jsonl", "s3://pool/*.csv", "s3://nowhere/x/"):
        with pytest.raises(SourceError, match=r"s3://.*(no data file there|cannot be read)"):
            ids(url)
    put(bucket, "notes.txt", b"x")
    with pytest.raises(SourceError, match=r"unknown file type '\.txt'"):
        ids("s3://pool/notes.txt")
    put(bucket, "a.jsonl.gz", LINES, "gzip")
    whole = bucket.get_object(Bucket="pool", Key="a.jsonl.gz")["Body"].read()
    put(bucket, "cut.jsonl.gz", whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"s3://pool/cut\.jsonl\.gz: not readable as gzip"):
        ids("s3://pool/cut.jsonl.gz")
    put(bucket, "two/a.jsonl", LINES[:400].rpartition(b"\n")[0])
    put(bucket, "two/b.jsonl", LINES)
    rows = read_source(SourceSpec(path="s3://pool/two"))
    next(rows)
    bucket.delete_object(Bucket="pool", Key="two/b.jsonl")
    with pytest.raises(SourceError, match=r"s3://pool/two/b\.jsonl: cannot be read .*check the address"):
        list(rows)


def test_a_missing_package_names_the_extra():
    program = """
import sys
sys.modules["s3fs"] = None  # as where it is not installed
from curate.sources import SourceError, SourceSpec, read_source
try:
    list(read_source(SourceSpec(path="s3://pool/a.jsonl")))
except SourceError as error:
    print(error)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert "s3://pool/a.jsonl: s3:// needs a package that is not installed; pip install 'equipoise[s3]'" in done.stdout


def test_an_unknown_protocol_is_refused():
    with pytest.raises(SourceError, match=r"nothing://x/a\.jsonl: cannot be opened .*correct `path`"):
        ids("nothing://x/a.jsonl")
