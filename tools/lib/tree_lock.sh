# Sourced by the commands in tools/: one at a time in a place, and who comes second says whom it waits for.

# lock_place DIRECTORY WHAT: held until this process ends, through descriptor 9. Children that could outlive it are started
# with 9>&-.
lock_place() {
  local name=${command_name:-${0##*/}} file=$1/.lock holder
  if ! mkdir -p "$1" || ! exec 9<>"$file"; then
    echo "$name: $file cannot be written: whose is $1?" >&2
    return 1
  fi
  if ! flock --nonblock 9; then
    holder=$(<"$file")
    echo "$name: ${holder:-another command} is at work in $2: waiting for it to end (Ctrl-C gives up)" >&2
    flock 9
  fi
  echo "$name (process $$)" >"$file"
}

# Two commands in one tree would build over each other, and test what the other is building.
lock_tree() {
  local tree
  tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  lock_place "$tree/build" "this tree"
}
