# Sourced by the commands in tools/: installs what they need on Debian 12 and 13, or says what is missing.

packages_build=(g++ python3 groff-base cmake ninja-build pkg-config ccache git libfuse3-dev fuse3 libpmem2-dev liburing-dev libibverbs-dev libblkid-dev libspdlog-dev
  libfmt-dev libcli11-dev nlohmann-json3-dev libcpp-httplib-dev libabsl-dev catch2)
packages_package=(dpkg-dev file fakeroot)
packages_demo=(python3 fio util-linux)
packages_spin=(spin gcc)
packages_mount=(acl attr e2fsprogs rsync util-linux)
packages_lint=(clang-format-14 clang-tidy-16)
packages_tools=(python3 util-linux fio fuse3 gcc mypy python3-numpy)
packages_chroot=(debootstrap util-linux git)
packages_fuzz=(clang-16 libclang-rt-16-dev llvm-16)
packages_bench=(python3 util-linux)
# The guests' kernel is not installed, only unpacked (tests/vm/fetch-kernel).
packages_vm=(python3 qemu-system-x86 busybox-static kmod ndctl xfsprogs e2fsprogs libibverbs-dev ibverbs-providers
  iproute2 util-linux zstd)

# Prints those of the packages given that are not installed.
missing_packages() {
  local installed package
  # Exits non-zero, and says so, for each package it has never heard of: that is an answer, too.
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    grep -qxF "$package installed" <<<"$installed" || echo "$package"
  done
}

# install_packages GROUP...: installs the packages of the groups.
install_packages() {
  local name=${command_name:-${0##*/}} group wanted=() missing file log
  for group in "$@"; do
    local -n of_group=packages_$group
    wanted+=("${of_group[@]}")
  done
  if ! command -v dpkg-query >/dev/null; then
    echo "$name: this is not Debian, so nothing is installed; needed are (Debian's names): ${wanted[*]}" >&2
    return 0
  fi
  # Unquoted: names of packages, one a line.
  missing=($(missing_packages "${wanted[@]}" | sort -u))
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    echo "$name: packages are missing, and only root can install them. Run this, then try again:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y ${missing[*]}" >&2
    return 1
  fi
  echo "$name: installing ${missing[*]}"
  file=$(mktemp)
  exec {log}<>"$file"
  rm "$file"
  if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
    -o DPkg::Lock::Timeout=120 "${missing[@]}"; } </dev/null >&"$log" 2>&1; then
    tail -n 20 "/proc/self/fd/$log" >&2
    echo "$name: apt-get could not install ${missing[*]}: see above; is the network up?" >&2
    return 1
  fi
  exec {log}>&-
}
