#!/usr/bin/env bash
# What everyday tools do to a pinned file, policy by policy (docs/pins-and-devices.md), measured on a mount of its own.
# Usage, as root: tests/tools/tools_and_pins.sh build/release
# POLICIES="refuse wait" chooses policies; all of it takes minutes on a busy machine.
set -euo pipefail
programs=$(realpath "$1")
work=$(mktemp -d)
mount=$work/mount
holder=
daemon=
end_holder() {
  [[ -z $holder ]] || { kill "$holder" 2>/dev/null || true; wait "$holder" 2>/dev/null || true; }
  holder=
}
clean_up() {
  end_holder
  if mountpoint -q "$mount"; then umount "$mount" || umount -l "$mount"; fi
  [[ -z $daemon ]] || wait "$daemon" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

mkdir "$mount"
head -c 1M /dev/urandom >"$work/new"
"$programs/mkfs.daxfs" --quiet --size 256M "$work/pool"

# A file of a mebibyte, all of it pinned.
pinned_file() {
  end_holder
  rm -rf "${mount:?}"/*
  head -c 1M /dev/zero >"$1"
  "$programs/daxfs-hold" "$1" --length 1M >/dev/null 2>&1 &
  holder=$!
  for _ in {1..100}; do
    grep -q '"id"' "$mount/.daxfs/pins" && return
    sleep 0.05
  done
  echo "no pin of $1" >&2
  exit 1
}
# Writes or discards by way of a loop device on the file that follows; $d is the device.
# shellcheck disable=SC2016  # for the shell that runs it
on_loop='d=$(losetup --find --show "$0") && { eval "$1"; code=$?; losetup --detach "$d"; exit $code; }'
# NAME COMMAND...: one cell.
cell() {
  local name=$1 out code=0 inode same
  shift
  pinned_file "$file"
  inode=$(stat -c %i "$file")
  out=$(LC_ALL=C timeout 20 "$@" 2>&1 </dev/null) || code=$?
  same=$([[ $(stat -c %i "$file" 2>/dev/null) == "$inode" ]] && echo "the same file" || echo "a new file")
  printf '%-8s | %-16s | %s | %s | %s\n' "$policy" "$name" "$code" "$same" "$(head -n1 <<<"$out" | sed "s#$work#W#g")"
}
file=$mount/f
git init --quiet --bare "$work/git"
cp "$work/new" "$mount/f"
git --git-dir="$work/git" --work-tree="$mount" add f
rm "$mount/f"
for policy in ${POLICIES:-refuse defer wait}; do
  "$programs/daxfs" "$work/pool" "$mount" -f -o "pin_policy=$policy,wait_timeout=2s" >"$work/log" 2>&1 &
  daemon=$!
  for _ in {1..100}; do mountpoint -q "$mount" && break; sleep 0.05; done
  mountpoint -q "$mount"
  cell "cp" cp "$work/new" "$file"
  cell "cp -f" cp -f "$work/new" "$file"
  cell "install" install "$work/new" "$file"
  cell "sed -i" sed -i s/a/b/ "$file"
  cell "mv over it" bash -c "cp '$work/new' '$mount/n' && mv -f '$mount/n' '$file'"
  cell ">" bash -c "> '$file'"
  cell "rm" rm "$file"
  cell "dd conv=notrunc" dd if="$work/new" of="$file" bs=64K conv=notrunc status=none
  cell "fallocate -p" fallocate -p -l 64K "$file"
  cell "fstrim" fstrim "$mount"
  cell "rsync" rsync --ignore-times "$work/new" "$file"
  cell "rsync --inplace" rsync --ignore-times --inplace "$work/new" "$file"
  cell "git checkout" git --git-dir="$work/git" --work-tree="$mount" checkout --quiet --force -- f
  cell "mkswap, swapon" bash -c "chmod 600 '$file' && mkswap --quiet '$file' && swapon '$file'"
  # shellcheck disable=SC2016
  cell "loop, blkdiscard" bash -c "$on_loop" "$file" 'blkdiscard "$d"'
  # shellcheck disable=SC2016
  cell "loop, dd" bash -c "$on_loop" "$file" 'dd if=/dev/zero of="$d" bs=64K count=16 conv=fsync status=none'
  end_holder
  umount "$mount"
  wait "$daemon" || true
  daemon=
done
