"""nfs_session.py MOUNT DIRECTORY FILES: exports the mount and is its client, in namespaces of its own. Prints, for each
version of NFS, what a truncate of the pinned file `held` is answered."""

import ctypes
import os
import subprocess
import sys
import time

CONFIG = """
NFS_CORE_PARAM {{ Protocols = 3, 4; Enable_NLM = false; Enable_RQUOTA = false; }}
NFSv4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = "{directory}"; }}
EXPORT {{ Export_Id = 1; Path = {mount}; Pseudo = /daxfs; Protocols = 3, 4; Access_Type = RW;
          Squash = No_Root_Squash; SecType = sys; Filesystem_Id = 192.168; FSAL {{ Name = VFS; }} }}
"""


def client(version, export):
    """A libnfs context, or None while the server does not answer."""
    lib.nfs_set_version.argtypes = [ctypes.c_void_p, ctypes.c_int]
    context = lib.nfs_init_context()
    lib.nfs_set_version(context, version)
    if lib.nfs_mount(ctypes.c_void_p(context), b"127.0.0.1", export.encode()) == 0:
        return ctypes.c_void_p(context)
    lib.nfs_destroy_context(ctypes.c_void_p(context))
    return None


def read(context, name):
    handle = ctypes.c_void_p()
    got = lib.nfs_open(context, name.encode(), os.O_RDONLY, ctypes.byref(handle))
    if got != 0:
        sys.exit(f"{name}: open: {got}: {lib.nfs_get_error(context)}")
    data = ctypes.create_string_buffer(65536)
    got = lib.nfs_pread(context, handle, ctypes.c_uint64(0), ctypes.c_uint64(65536), data)
    lib.nfs_close(context, handle)
    return data.raw[:got]


def main():
    mount, directory, files = sys.argv[1], sys.argv[2], int(sys.argv[3])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    for name in "rpcbind", "ganesha":
        os.mkdir(f"/run/{name}")
    config = os.path.join(directory, "conf")
    with open(config, "w", encoding="ascii") as file:
        file.write(CONFIG.format(mount=mount, directory=directory))
    subprocess.Popen(["rpcbind", "-f"])
    time.sleep(1)  # it says nothing when it is ready, and Ganesha asks it once
    log = os.path.join(directory, "log")
    subprocess.Popen(["ganesha.nfsd", "-F", "-f", config, "-L", log, "-p", "/run/ganesha/pid"])
    for version, export in (3, mount), (4, "/daxfs"):
        deadline = time.monotonic() + 60
        while not (context := client(version, export)):
            if time.monotonic() > deadline:
                sys.exit(f"no answer over NFS v{version}")
            time.sleep(0.2)
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as knob:
            knob.write("3")
        for number in range(files):
            if read(context, f"/f{number}") != b"%d\n" % number * 500:
                sys.exit(f"v{version}: f{number} has other contents")
        shell = subprocess.run(
            ["nfs-cat", f"nfs://127.0.0.1{export}/f1?version={version}"], capture_output=True, check=True
        )
        if shell.stdout != b"1\n" * 500:
            sys.exit(f"v{version}: nfs-cat has other contents")
        print(version, lib.nfs_truncate(context, b"/held", ctypes.c_uint64(0)), flush=True)
        lib.nfs_destroy_context(context)


lib = ctypes.CDLL("libnfs.so.13")
lib.nfs_init_context.restype = ctypes.c_void_p
lib.nfs_get_error.restype = ctypes.c_char_p
main()
