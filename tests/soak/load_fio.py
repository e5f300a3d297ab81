"""fio writes, reads back and compares checksums: every engine, cached and direct, alone and four at a time."""

POOL_MIB = 1536
BLOCK_SIZES = ["--bsrange=4k-1m"]


def fio(place, name, engine, jobs, direct, size, extra=()):
    place.run(
        [
            "fio",
            f"--name={name}",
            f"--ioengine={engine}",
            f"--numjobs={jobs}",
            f"--direct={direct}",
            f"--size={size}m",
            "--rw=randrw",
            "--iodepth=16",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--verify_backlog=64",
            "--group_reporting",
            "--output-format=terse",
            f"--directory={place.mountpoint}",
            *extra,
        ],
        seconds=900,
        cwd=place.directory,
    )


def run(place):
    loops = 1 if place.quick else 4
    with place.mounting(POOL_MIB):
        empty = place.free()
        for engine in "psync", "libaio", "io_uring", "mmap":
            for direct in (0,) if engine == "mmap" else (0, 1):
                for jobs in 1, 4:
                    name = f"{engine}, {'direct' if direct else 'cached'}, {jobs} job{'s' if jobs > 1 else ''}"
                    with place.report.step(f"fio: {name}"):
                        size = (48 if place.quick else 96) * (2 if jobs == 1 else 1)
                        fio(place, "own", engine, jobs, direct, size, [*BLOCK_SIZES, f"--loops={loops}"])
                    place.empty()
        variants(place, loops)
        with place.report.step("fio: all space is free again"):
            place.empty()
            place.check_free(empty)


def variants(place, loops):
    size = 48 if place.quick else 96
    steps = {
        # Allocates in random order, so that there are many extents.
        "into holes": ("libaio", 4, 1, [*BLOCK_SIZES, "--rw=randwrite", "--fallocate=none"]),
        "small blocks into holes": ("psync", 2, 1, ["--bs=4k", "--rw=randwrite", "--fallocate=none"]),
        "into preallocated space": ("psync", 4, 1, [*BLOCK_SIZES, "--rw=randwrite", "--fallocate=keep"]),
        "sizes that are no blocks": ("psync", 4, 0, ["--bsrange=512-256k", "--bs_unaligned=1"]),
        "one file for all": ("psync", 4, 1, [*BLOCK_SIZES, "--filename=shared", f"--offset_increment={size}m"]),
    }
    for name, (engine, jobs, direct, extra) in steps.items():
        with place.report.step(f"fio: {engine}, {name}"):
            fio(place, "own", engine, jobs, direct, size, [f"--loops={loops}", *extra])
        place.empty()
