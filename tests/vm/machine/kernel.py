"""Where the guest's kernel comes from, and which of its modules must be loaded in which order."""

import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile

PACKAGE = "linux-image-amd64"
# Linux 6.1, 6.12, and the newest that Debian has.
SUITES = ("bookworm", "trixie", "sid")
MIRROR = "http://deb.debian.org/debian"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NoKernel(Exception):
    """Why there is none, in one line."""


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = os.path.join(base, "daxfs-vm")
    os.makedirs(directory, exist_ok=True)
    return directory


class Kernel:
    """One version: its image and its modules, below `root` (which is / for one that is installed)."""

    def __init__(self, root, version):
        self.version = version
        self.packed_image = os.path.join(root, "boot", f"vmlinuz-{version}")
        # Debian 13's packages have no lib beside usr/lib.
        places = [os.path.join(root, place, version) for place in ("lib/modules", "usr/lib/modules")]
        self.modules = next(filter(os.path.isdir, places), places[0])

    def numbers(self):
        return [int(part) for part in re.findall(r"\d+", self.version)]

    def is_complete(self):
        return os.path.exists(self.packed_image) and os.path.exists(os.path.join(self.modules, "modules.dep"))

    def image(self):
        """Unpacked if possible: an emulated CPU takes seconds to unpack its own kernel."""
        status = os.stat(self.packed_image)
        unpacked = os.path.join(cache_directory(), f"vmlinux-{self.version}-{status.st_size}-{int(status.st_mtime)}")
        if not os.path.exists(unpacked):
            with open(self.packed_image, "rb") as file:
                contents = unpack_image(file.read())
            if contents is None:
                return self.packed_image
            write_atomically(unpacked, contents)
        return unpacked

    def load_order(self, names):
        """Paths below `modules` of the modules with these names and of all that they need, those first. What the
        kernel has built in has no module and is left out."""
        paths, needs = {}, {}
        with open(os.path.join(self.modules, "modules.dep"), encoding="ascii") as table:
            for line in table:
                path, _, needed = line.partition(":")
                paths[module_name(path)] = path
                # The last one listed must be loaded first.
                needs[path] = needed.split()[::-1]
        order = []
        for name in names:
            path = paths.get(name.replace("-", "_"))
            for one in [*needs[path], path] if path else []:
                if one not in order:
                    order.append(one)
        return order

    def read_module(self, path):
        with open(os.path.join(self.modules, path), "rb") as file:
            contents = file.read()
        if path.endswith(".xz"):
            return lzma.decompress(contents)
        if path.endswith(".zst"):
            return subprocess.run(["zstd", "-qdc"], input=contents, capture_output=True, check=True).stdout
        return contents


def module_name(path):
    return re.sub(r"\.ko(\.\w+)?$", "", os.path.basename(path)).replace("-", "_")


def unpack_image(image):
    """The ELF file within a bzImage, found by its header (Documentation/x86/boot.rst), or None."""
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        # The stream is followed by its size.
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd") and shutil.which("zstd"):
        found = subprocess.run(["zstd", "-qdc"], input=payload[:-4], capture_output=True, check=False)
        return found.stdout if found.returncode == 0 else None
    return None


def write_atomically(path, contents):
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
        file.write(contents)
    os.replace(file.name, path)


def complete_kernels(root):
    try:
        images = os.listdir(os.path.join(root, "boot"))
    except FileNotFoundError:
        return []
    kernels = [Kernel(root, name.removeprefix("vmlinuz-")) for name in images if name.startswith("vmlinuz-")]
    return sorted(filter(Kernel.is_complete, kernels), key=Kernel.numbers)


def chosen_suite():
    """Whose kernel the guests are to have: Debian's suite of that name, or None: what this machine has, or its own Debian's."""
    suite = os.environ.get("DAXFS_VM_KERNEL") or None
    if suite and suite not in SUITES:
        raise NoKernel(f"DAXFS_VM_KERNEL={suite}: none of {', '.join(SUITES)}")
    return suite


def unpacked(suite):
    return os.path.join(cache_directory(), f"kernel-{suite}" if suite else "kernel")


def find_kernel(suite=None):
    """That of the suite, if it was unpacked by fetch_kernel(). Without one: the newest that is installed or was unpacked."""
    suite = suite or chosen_suite()
    found = ([] if suite else complete_kernels("/")) or complete_kernels(unpacked(suite))
    if not found:
        whose = f"Debian {suite}'s kernel was not fetched" if suite else "no kernel in /boot, and none was fetched"
        raise NoKernel(f"{whose} (package {PACKAGE}): run tools/check as root")
    return found[-1]


def apt_options(suite, work):
    """For apt to look at that suite instead of this system's: lists of its own, Debian's keys, nothing installed."""
    if not suite:
        return []
    for name in ("lists/partial", "archives/partial"):
        os.makedirs(os.path.join(work, name))
    sources = os.path.join(work, "sources.list")
    with open(sources, "w", encoding="ascii") as file:
        file.write(f"deb [signed-by={KEYS}] {MIRROR} {suite} main\n")
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": os.path.join(work, "lists"),
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": work,
        "Acquire::Languages": "none",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def fetch_kernel(suite=None):
    """Unpacks Debian's kernel package beside the system instead of installing it: this machine (or container) is not
    to boot it, needs no boot loader for it, and would take a minute to make an initial ramdisk."""
    suite = suite or chosen_suite()
    try:
        return find_kernel(suite)
    except NoKernel:
        pass
    root = unpacked(suite)
    with tempfile.TemporaryDirectory(dir=cache_directory()) as work:
        try:
            options = [*apt_options(suite, work), "-o", "APT::Sandbox::User=root"]
            if suite:
                run(["apt-get", "-q", *options, "update"])
            shown = run(["apt-cache", *options, "depends", "--important", PACKAGE])
            package = re.search(r"Depends: (linux-image-\S+)", shown)
            if not package:
                raise NoKernel(f"package {PACKAGE} names no kernel; is 'apt-get update' needed?")
            # From Debian 14 on the image and its modules are packages of their own.
            shown = run(["apt-cache", *options, "depends", "--important", package[1]])
            parts = re.findall(r"Depends: (linux-(?:binary|modules)-\d\S+)", shown)
            run(["apt-get", "-q", *options, "download", package[1], *parts], cwd=work)
            archives = [os.path.join(work, name) for name in os.listdir(work) if name.endswith(".deb")]
            whole = os.path.join(work, "root")
            for archive in archives:
                run(["dpkg-deb", "--extract", archive, whole])
            add_dependencies(whole)
            add_image(whole)
            shutil.rmtree(root, ignore_errors=True)
            os.rename(whole, root)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoKernel(f"the kernel of package {PACKAGE} cannot be unpacked: {error}") from None
    return find_kernel(suite)


def add_dependencies(root):
    """modules.dep, which the package leaves to its installation. depmod looks into lib alone."""
    if not os.path.exists(os.path.join(root, "lib")):
        os.symlink("usr/lib", os.path.join(root, "lib"))
    for version in os.listdir(os.path.join(root, "lib/modules")):
        run(["depmod", "--basedir", root, version])


def add_image(root):
    """Where Kernel looks for it: Debian 14's lies beside its modules."""
    os.makedirs(os.path.join(root, "boot"), exist_ok=True)
    for version in os.listdir(os.path.join(root, "lib/modules")):
        beside = os.path.join(root, "lib/modules", version, "vmlinuz")
        if os.path.exists(beside):
            os.rename(beside, os.path.join(root, "boot", f"vmlinuz-{version}"))


def run(command, **how):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    if done.returncode:
        raise NoKernel(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
    return done.stdout
