"""Rates that were not measured on the machine: GPUs by their data sheets, one core, object storage.

Data sheets state peaks. The estimates assume three quarters of the peak for products, and memory bandwidth for the
rest. The reduction to tridiagonal form, most of an eigendecomposition, reads the whole matrix once per column: at
``8/3 n^3`` bytes it is bound by memory, which published measurements agree with (cuSOLVER reaches less than 3 % of an
H100's arithmetic: arXiv 2410.02170). Expect a factor of two either way, and measure where it matters.
"""

from __future__ import annotations

from dataclasses import dataclass

from svc_dist.forecast.rates import Speed

_REACHED = 0.75  # of the peak of matrix products
_LAUNCHES = 40e-6  # seconds for the small kernels of one column of a decomposition
_PER_OPERATION = 6.0  # bytes of device memory that an element-wise operation moves: two of three are reads of float32
_PER_CODE = 80.0  # bytes of device memory that encoding an entry moves: a pass reads and writes float32
_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU without sparsity, with TF32 off. Operations and bytes a second; ``memory`` in bytes.

    ``link``: to the host in one direction. ``source``: where the numbers are from.
    """

    float64: float
    float32: float
    bandwidth: float
    memory: int
    link: float
    source: str

    def speed(self) -> Speed:
        """The speed of a unit that has the device to itself."""
        double = _REACHED * self.float64
        eigen = tuple((n, _LAUNCHES * n + n**3 * (8 / 3 / self.bandwidth + 4.0 / double)) for n in _SIZES)
        return Speed(
            double,
            _REACHED * self.float32,
            self.bandwidth / _PER_OPERATION,
            eigen,
            CORE.decode,
            self.bandwidth / _PER_CODE,
            _REACHED * self.link,
        )


GPUS = {
    "a100": Gpu(19.5e12, 19.5e12, 2.039e12, 80 * 10**9, 32e9,
                "NVIDIA A100 data sheet (SXM 80 GB; float64 on tensor cores)"),
    "h100": Gpu(67e12, 67e12, 3.35e12, 80 * 10**9, 64e9,
                "NVIDIA H100 data sheet (SXM; float64 on tensor cores)"),
    "h200": Gpu(67e12, 67e12, 4.8e12, 141 * 10**9, 64e9,
                "NVIDIA H200 data sheet (SXM; float64 on tensor cores)"),
    "b200": Gpu(37e12, 75e12, 8.0e12, 180 * 10**9, 64e9,
                "NVIDIA DGX B200 data sheet and HGX B200 specifications, an eighth of the system"),
    "l40s": Gpu(1.43e12, 91.6e12, 0.864e12, 48 * 10**9, 32e9,
                "NVIDIA L40S data sheet (float64: 1/64 of float32)"),
    "mi300x": Gpu(163.4e12, 163.4e12, 5.3e12, 192 * 10**9, 64e9,
                  "AMD Instinct MI300X data sheet (matrix cores)"),
}  # fmt: skip

#: One core with one thread, while the other cores are busy too.
CORE = Speed(40e9, 80e9, 1.6e9, ((256, 0.012), (512, 0.045), (1024, 0.22), (2048, 1.5)), 0.4e9, 0.3e9)
CORE_SOURCE = "one of two virtual cores of an AMD EPYC (Zen 4, AVX-512), measured by measure-host"

#: Bytes a second of one connection to S3 (Amazon's performance design patterns: 85 to 90 MB/s a request).
CONNECTION = 85e6
#: Bytes a second that one process reads with all its connections beside two merging threads, on two of the cores above
#: which it shares with the server (benchmarks/s3_reading.py; alone 2.2e9), and hands over of what a device has made (a
#: checksum and a copy, on one core).
CLIENT, HANDOVER = 1.87e9, 4.6e9
#: Cores beside each GPU that are left for units which need none (machines of eight H100 have 24 for each).
CORES = 8
#: Seconds before a first unit on a cluster: the command until it has joined (imports 1.4, joining 1.0); beside one
#: another its processes (1.4), and what they import (2.9), as measured on two of the cores above; planning from object
#: storage (1.7 from disk). ``CONTEXT``: those of a device before that, an assumption.
START, CONTEXT = 1.4 + 1.0 + 1.4 + 2.9 + 3.0, 3.0
#: Seconds after the last one: the last shard, publishing and leaving took 0.6 on disk; on object storage each of about
#: ten small files takes a request more.
END = 3.0
#: Seconds of latency that a unit's reading, writing and receipt take on object storage.
LATENCY = 0.2
#: Bytes a second between a node and its storage by default.
NETWORK = 25e9 / 8
#: Of a machine about which nothing was measured: bytes a second of its disk, seconds of a merge without units, and of a
#: receipt.
DISK, START_HERE, RECORD_HERE = 1e9, 3.0, 0.003
