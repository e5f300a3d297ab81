# Sourced by the commands in tools/: what their arguments may be.

# nearest_word WORD CANDIDATE...: the candidate that a typo may have turned into the word, or nothing.
nearest_word() {
  printf '%s\n' "$@" | awk '
    function least(a, b) { return a < b ? a : b }
    # Letters that are added, left out, replaced, or swapped with their neighbour.
    function distance(a, b,  i, j, d, same) {
      for (i = 0; i <= length(a); i++) d[i, 0] = i
      for (j = 0; j <= length(b); j++) d[0, j] = j
      for (i = 1; i <= length(a); i++) for (j = 1; j <= length(b); j++) {
        same = substr(a, i, 1) == substr(b, j, 1)
        d[i, j] = least(least(d[i - 1, j] + 1, d[i, j - 1] + 1), d[i - 1, j - 1] + !same)
        if (i > 1 && j > 1 && substr(a, i, 1) == substr(b, j - 1, 1) && substr(a, i - 1, 1) == substr(b, j, 1))
          d[i, j] = least(d[i, j], d[i - 2, j - 2] + 1)
      }
      return d[length(a), length(b)]
    }
    NR == 1 { word = $0; best = int((length(word) + 2) / 3) + 1; next }
    { now = distance(word, $0) }
    now < best { best = now; nearest = $0 }
    END { if (nearest != "") print nearest }'
}

# one_of WHAT WORD ALLOWED...: ends the command unless the word is one of those.
one_of() {
  local name=${command_name:-${0##*/}} what=$1 word=$2 near
  shift 2
  [[ " $* " != *" $word "* || $word == *" "* || -z $word ]] || return 0
  near=$(nearest_word "$word" "$@")
  echo "$name: $what '$word' is none of ${*}${near:+; did you mean $near?}" >&2
  exit 2
}

# unknown_argument WORD OPTION...: ends the command.
unknown_argument() {
  local name=${command_name:-${0##*/}} word=$1 near
  shift
  near=$(nearest_word "$word" "$@")
  echo "$name: unknown argument '$word'$([[ -z $near ]] && echo . || echo "; did you mean $near?") See --help" >&2
  exit 2
}

# The version that CMake knows.
version_of_tree() {
  sed -n 's/^project(daxfs VERSION \([0-9.]*\).*/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../../CMakeLists.txt"
}
