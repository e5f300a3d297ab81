"""xfstests' generic/quick, as it runs a filesystem of FUSE."""

import os
import re
import shutil
import subprocess

import place

# test: why it is not run
LEFT_OUT = {
    "generic/449": "fills a file's attributes until there is no space; a daxfs file has no such limit as it looks for",
}
USERS = ("fsgqa", "fsgqa2", "123456-fsgqa")


def add_users(where):
    """In this mount namespace alone."""
    rows = {"passwd": "{0}:x:{1}:{1}::/:/bin/bash", "group": "{0}:x:{1}:", "shadow": "{0}:*:19000:0:99999:7:::"}
    for name, row in rows.items():
        with open(f"/etc/{name}", encoding="utf-8") as file:
            text = file.read()
        present = {line.split(":")[0] for line in text.splitlines()}
        for number, user in enumerate(USERS):
            if user not in present:
                text += row.format(user, 61000 + number) + "\n"
        copy = os.path.join(where, name)
        with open(copy, "w", encoding="utf-8") as file:
            file.write(text)
        subprocess.run(["mount", "--bind", copy, f"/etc/{name}"], check=True)


def know_type(checkout, where):
    """df(1) says fuse.daxfs, and the suite wants to hear the type that it was given."""
    rc = os.path.join(checkout, "common", "rc")
    with open(rc, encoding="utf-8") as file:
        text = file.read()
    copy = os.path.join(where, "rc")
    with open(copy, "w", encoding="utf-8") as file:
        file.write(text.replace("-e 's/fuse.ceph-fuse/ceph-fuse/'", "-e 's/fuse.ceph-fuse/ceph-fuse/' -e 's/fuse.daxfs/fuse/'"))
    subprocess.run(["mount", "--bind", copy, rc], check=True)


def find_daxfs(build, where):
    """The suite has a PATH of its own; mount.fuse looks for daxfs there."""
    helper = os.path.realpath(shutil.which("mount.fuse"))
    shutil.copy(helper, os.path.join(where, "mount.fuse"))
    wrapper = os.path.join(where, "wrapper")
    with open(wrapper, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\nPATH={build}:$PATH exec {where}/mount.fuse \"$@\" >/dev/null\n")
    os.chmod(wrapper, 0o755)
    subprocess.run(["mount", "--bind", wrapper, helper], check=True)


def settings(build, where):
    """A file with them, as the suite wants it."""
    values = {"FSTYP": "fuse", "FUSE_SUBTYP": ".daxfs", "RESULT_BASE": os.path.join(where, "results")}
    for name in ("test", "scratch"):
        values[f"{name.upper()}_DEV"] = os.path.join(where, f"{name}.pool")
        values["TEST_DIR" if name == "test" else "SCRATCH_MNT"] = os.path.join(where, name)
        place.make_pool(build, os.path.join(where, f"{name}.pool"), "2G")
        os.mkdir(os.path.join(where, name))
    path = os.path.join(where, "config")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"export {name}={value}\n" for name, value in values.items())
    return {**os.environ, "HOST_OPTIONS": path}


def run(checkout, build, only, skip):
    if not os.path.exists(os.path.join(checkout, "ltp", "fsstress")):
        raise skip(f"{checkout} is no checkout of xfstests that is built (make)")
    if shutil.which("mount.fuse") is None:
        raise skip("there is no mount.fuse (fuse3)")
    with place.directory() as where:
        add_users(where)
        know_type(checkout, where)
        find_daxfs(build, where)
        tests = only.split() if only else ["-g", "generic/quick"]
        left_out = [word for test in LEFT_OUT for word in ("-e", test)]
        said = ""
        with subprocess.Popen(["./check", *left_out, *tests], cwd=checkout, env=settings(build, where), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
            for line in child.stdout:
                print(line, end="", flush=True)
                said += line
        keep_results(where, said)
        return outcomes(said)


def keep_results(where, said):
    """What failed, and why, where DAXFS_SUITES_RESULTS names a directory for it."""
    keep = os.environ.get("DAXFS_SUITES_RESULTS")
    if keep:
        os.makedirs(keep, exist_ok=True)
        if os.path.isdir(os.path.join(where, "results")):
            shutil.copytree(os.path.join(where, "results"), keep, dirs_exist_ok=True)
        with open(os.path.join(keep, "said"), "w", encoding="utf-8") as file:
            file.write(said)


def outcomes(said):
    """`generic/001 3s ... 4s`, `[not run] why`, `- output mismatch`, `[failed, exit status 1]`."""
    result = {}
    for line in said.splitlines():
        match = re.match(r"(generic/\d+)\s(.*)", line)
        if not match:
            continue
        rest = match[2]
        if "[not run]" in rest:
            result[match[1]] = "notrun"
        elif "mismatch" in rest or "[failed" in rest or "dmesg" in rest:
            result[match[1]] = "fail"
        elif re.search(r"\d+s\s*$", rest):
            result[match[1]] = "pass"
    return result
