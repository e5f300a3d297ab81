"""A guest from its start to its end: QEMU without KVM, the host's /usr as its system, files as its NVDIMMs.

A results directory is all that it can write to outside itself. There the host puts .vm/command, .vm/job and .vm/shares,
and the guest leaves `output`, .vm/status and whatever the command puts beside them."""

import ctypes
import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import time

from .initramfs import BUSYBOX, initramfs
from .kernel import find_kernel
from .tsc import tsc_khz

QEMU = "qemu-system-x86_64"
JOB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "guest/job")
ALIGNMENT = 2 << 20
MOST_MEMORY_MIB = 65536
POLL_SECONDS = 0.05
# QEMU finds translated code again where a process maps a library at the same address as the one before it, and the kernel
# would take a slow emulated timer for its clock. Without either, programs start in a fraction of the time.
#
# The kernel patches its own code while it boots. QEMU 7.2 can go on with the old translation on another CPU (both then take the
# breakpoint that the patch begins with, for ever), so that guest/init brings the others up when that is over.
KERNEL_OPTIONS = (
    "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off random.trust_cpu=on "
    "norandmaps tsc=reliable clocksource=tsc no_timer_check maxcpus=1 noreplace-smp"
)
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


class GuestFailed(Exception):
    """It ended without a result: why, and what the console showed last."""


def lacking():
    """What this machine lacks to run a guest, or ''."""
    if not shutil.which(QEMU):
        return f"{QEMU} is not installed"
    if not os.path.exists(BUSYBOX):
        return "busybox-static is not installed"
    return ""


@dataclasses.dataclass
class Nvdimm:
    """Its contents are the file: they outlive the guest."""

    path: str
    mib: int
    label_kib: int = 0  # 0: without a label area

    @classmethod
    def parse(cls, text):
        path, mib, label = (text.split(":") + ["0"])[:3]
        return cls(path, int(mib), int(label))

    def bytes(self):
        return (self.mib << 20) + (self.label_kib << 10)

    def make(self):
        if not os.path.exists(self.path):
            with open(self.path, "wb") as file:
                # QEMU wants whole steps of the alignment; the rest behind the label is nobody's.
                file.truncate(-(-self.bytes() // ALIGNMENT) * ALIGNMENT)

    def arguments(self, number):
        size = -(-self.bytes() // ALIGNMENT) * ALIGNMENT
        backend = f"memory-backend-file,id=memory{number},share=on,mem-path={self.path},size={size},align={ALIGNMENT}"
        device = f"nvdimm,id=nvdimm{number},memdev=memory{number}"
        if self.label_kib:
            device += f",label-size={self.label_kib}K"
        return ["-object", backend, "-device", device]


@dataclasses.dataclass
class Cxl:
    """A type-3 device: persistent memory behind PCI Express instead of in a slot. What is in it outlives the guest."""

    path: str
    mib: int  # in steps of 256: a window of the host's bridge has no finer ones
    label_mib: int = 1

    MODULES = ("cxl_acpi", "cxl_pci", "cxl_port", "cxl_mem", "cxl_pmem")

    def label_path(self):
        return self.path + ".label"

    def make(self):
        for path, mib in ((self.path, self.mib), (self.label_path(), self.label_mib)):
            if not os.path.exists(path):
                with open(path, "wb") as file:
                    file.truncate(mib << 20)

    def arguments(self):
        words = []
        for name, path, mib in (("data", self.path, self.mib), ("label", self.label_path(), self.label_mib)):
            words += ["-object", f"memory-backend-file,id=cxl-{name},share=on,mem-path={path},size={mib}M"]
        words += ["-device", "pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl-bridge"]
        # Linux leaves the decoder of a bridge with a single port alone, and QEMU 7.2 then finds no way: there are two.
        words += ["-device", "cxl-rp,port=0,bus=cxl-bridge,id=cxl-port,chassis=0,slot=2"]
        words += ["-device", "cxl-rp,port=1,bus=cxl-bridge,id=cxl-other-port,chassis=0,slot=3"]
        words += ["-device", f"cxl-type3,bus=cxl-port,{memory_property()}=cxl-data,lsa=cxl-label,id=cxl-memory"]
        return words + ["-M", "cxl-fmw.0.targets.0=cxl-bridge,cxl-fmw.0.size=4G"]


def memory_property():
    """QEMU 8.1 has another name for it. Empty: it knows no such device."""
    listed = subprocess.run([QEMU, "-device", "cxl-type3,help"], capture_output=True, text=True, check=False)
    return next((name for name in ("persistent-memdev", "memdev") if f" {name}=" in listed.stdout), "")


def lacking_for_cxl(kernel):
    """What this machine lacks for a guest with such a device, or ''."""
    name = memory_property()
    if not name:
        return f"{QEMU} has no cxl-type3"
    # It has no interrupts for its log of events, which Linux insists on.
    if name == "memdev" and kernel.numbers() >= [6, 3]:
        return f"QEMU's CXL device is too old for Linux {kernel.version}: it takes QEMU 8.1, or Linux 6.1"
    return ""


@dataclasses.dataclass
class Machine:
    """What a guest consists of."""

    results: str
    nvdimms: list = dataclasses.field(default_factory=list)
    shares: list = dataclasses.field(default_factory=list)  # directories, read-only, at the same path
    modules: list = dataclasses.field(default_factory=list)
    memory_mib: int = 2048
    cpus: int = 2
    persistence: str = "mem-ctrl"  # or cpu: a power failure does not lose the CPU's caches either
    kernel: str = ""  # Debian's of this suite, if it matters
    cxl: Cxl | None = None
    iommu: bool = False  # before a device that nobody drives (QEMU's edu)

    IOMMU_MODULES = ("vfio_pci", "vfio_iommu_type1")

    def command(self, kernel):
        # Linux changes CXL regions only where it can flush all CPU caches, and trusts no hypervisor with that.
        cpu = "max,-hypervisor" if self.cxl else "max"
        words = [QEMU, "-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", str(self.cpus)]
        words += ["-machine", f"q35,nvdimm=on,nvdimm-persistence={self.persistence}" + (",cxl=on" if self.cxl else "")]
        words += ["-m", f"{self.memory_mib}M,slots=8,maxmem={self.memory_mib + MOST_MEMORY_MIB}M"]
        if self.iommu:  # the first of the devices
            words += ["-device", "intel-iommu", "-device", "edu"]
        words += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        words += ["-serial", f"file:{self.path('console')}", "-device", "virtio-rng-pci"]
        modules = [*self.modules, *(Cxl.MODULES if self.cxl else ()), *(self.IOMMU_MODULES if self.iommu else ())]
        words += ["-kernel", kernel.image(), "-initrd", initramfs(kernel, modules)]
        options = KERNEL_OPTIONS + (" intel_iommu=on" if self.iommu else "")
        words += ["-append", f"{options} tsc_early_khz={tsc_khz()}"]
        words += share("usr", "/usr") + share("etc", "/etc")
        words += share("results", self.results, writable=True)
        for number, directory in enumerate(self.shares):
            words += share(f"share{number}", directory)
        for number, nvdimm in enumerate(self.nvdimms):
            words += nvdimm.arguments(number)
        return words + (self.cxl.arguments() if self.cxl else [])

    def path(self, *names):
        return os.path.join(self.results, ".vm", *names)


def share(tag, directory, writable=False):
    # What the guest's root may do there is what we may.
    rights = "security_model=none" + ("" if writable else ",readonly=on")
    fsdev = f"local,id={tag},path={directory},multidevs=remap,{rights}"
    return ["-fsdev", fsdev, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


class Guest:
    """A running one. Killed at the end, if it still runs then."""

    def __init__(self, machine, command):
        self.machine = machine
        self.shown = 0
        self.prepare(command)
        for memory in [*machine.nvdimms, *filter(None, [machine.cxl])]:
            memory.make()
        with open(machine.path("qemu.log"), "wb") as log:
            self.process = subprocess.Popen(
                machine.command(find_kernel(machine.kernel)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
            )

    def prepare(self, command):
        machine = self.machine
        machine.results = os.path.abspath(machine.results)
        machine.shares = [os.path.abspath(directory) for directory in machine.shares]
        shutil.rmtree(machine.path(), ignore_errors=True)
        os.makedirs(machine.path())
        shutil.copy(JOB, machine.path("job"))
        for name, text in (
            ("shares", "".join(f"{directory}\n" for directory in machine.shares)),
            ("command", shlex.join(command) + "\n"),
        ):
            with open(machine.path(name), "w", encoding="utf-8") as file:
                file.write(text)
        with open(self.output_path(), "wb"):
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut_power()

    def cut_power(self):
        """What is in the NVDIMMs stays; all else is gone."""
        self.process.kill()
        self.process.wait()

    def running(self):
        return self.process.poll() is None

    def output_path(self):
        return os.path.join(self.machine.results, "output")

    def show_output(self, stream):
        """What the command has printed since the last time."""
        with open(self.output_path(), "rb") as file:
            file.seek(self.shown)
            fresh = file.read()
        self.shown += len(fresh)
        stream.write(fresh)
        stream.flush()

    def wait(self, seconds, stream=None, until=None):
        """Exit status of the command; None as soon as until() holds."""
        deadline = time.monotonic() + seconds
        while self.running() and not (until and until()):
            if time.monotonic() > deadline:
                self.cut_power()
                raise GuestFailed(f"still running after {seconds} s; its console ends with:\n{self.console_tail()}")
            if stream:
                self.show_output(stream)
            time.sleep(POLL_SECONDS)
        if stream:
            self.show_output(stream)
        return None if self.running() else self.status()

    def status(self):
        try:
            with open(self.machine.path("status"), encoding="ascii") as file:
                return int(file.read())
        except FileNotFoundError:
            with open(self.machine.path("qemu.log"), encoding="utf-8", errors="replace") as log:
                complaint = log.read().strip()[-500:]
            text = f"ended without a result (QEMU: {self.process.returncode} {complaint}); its console ends with:"
            raise GuestFailed(f"{text}\n{self.console_tail()}") from None

    def console_tail(self):
        try:
            with open(self.machine.path("console"), encoding="utf-8", errors="replace") as console:
                return "\n".join(console.read().splitlines()[-25:])
        except FileNotFoundError:
            return "(nothing)"
