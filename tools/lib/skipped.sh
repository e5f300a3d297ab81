# Sourced by tools/check: what was skipped, and why. A skipped test is no passed one, and ctest shows only its name.

# From ctest's own log of its last run: "name: reason" of each test that ended as skipped.
skipped_tests() {
  local log=$1/Testing/Temporary/LastTest.log
  [[ -e $log ]] || return 0
  awk '
    /^[0-9]+\/[0-9]+ Test: / { name = $0; sub(/^[0-9]+\/[0-9]+ Test: /, "", name); reason = "" }
    /SKIPPED: / && !/^Command: / && reason == "" { reason = $0; sub(/.*SKIPPED: /, "", reason) }
    # Ended with the status for it, or recognised by what it said.
    (/^Test Passed\.$/ || /^Skip regular expression found/) && reason != "" { print name ": " reason; reason = "" }' "$log"
}

# From what the guests have said since: each scenario is one test of ctest, and passed. "skip  NAME (SECONDS s): REASON"
skipped_in_guests() {
  local output
  for output in "$1"/vm/*/output; do
    [[ $output -nt $2 ]] || continue
    sed -n -E "s/^skip +(.*) \([0-9.]+ s\): /vm: $(basename "$(dirname "$output")"): \1: /p" "$output"
  done
}

# show_skipped BUILD-DIRECTORY SINCE: SINCE is a file; what is older is another run's.
show_skipped() {
  local lines
  lines=$(skipped_tests "$1" && skipped_in_guests "$1" "$2") || return
  if [[ -z $lines ]]; then
    echo "skipped: nothing"
  else
    echo "skipped ($(wc -l <<<"$lines")):"
    sed 's/^/  /' <<<"$lines"
  fi
}
