#!/usr/bin/env bash
# Goes the way of a newcomer: a clone of what is committed, an empty home, nothing of this shell's surroundings; then
# README's demo and the commands of tests/fresh/commands.txt. Prints a table, and ends with 1 where a step failed.
#   tests/fresh/fresh_machine.sh                 make demo, then the commands
#   tests/fresh/fresh_machine.sh --quick         the same with small numbers instead of the demo's
#   tests/fresh/fresh_machine.sh --with-tests    and make test at the end
#   --keep-pip      use this user's cache and settings of pip      --tree     files as they lie here, committed or not
#   --keep-folder   leave the clone behind                         --python PROGRAM
set -uo pipefail
quick=no tests=no pip=no tree=no keep_folder=no python=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=yes ;;
    --with-tests) tests=yes ;;
    --keep-pip) pip=yes ;;
    --tree) tree=yes ;;
    --keep-folder) keep_folder=yes ;;
    --python) python=${2:?--python needs a program}; shift ;;
    *) sed -n '2,9p' "$0" >&2; exit 2 ;;
  esac
  shift
done

here=$(dirname "${BASH_SOURCE[0]}")
top=$(git -C "$here" rev-parse --show-toplevel) || { echo "error: $here lies in no clone of git" >&2; exit 2; }
place=$(mktemp -d)
project=$place/project home=$place/home logs=$place/logs
mkdir "$home" "$logs"
if [ $tree = yes ]; then
  mkdir "$project"
  # Deleted files are listed, too.
  (cd "$top" && git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' name; do
    [ -e "$name" ] && printf '%s\0' "$name"
  done | tar --null -cf - -T -) | tar -xf - -C "$project"
else
  git clone --quiet --local "$top" "$project" || exit 2
fi

# What a login of a new user has; certificates, proxies and where Pythons lie belong to the machine, not to the user.
surroundings=(HOME="$home" PATH="$PATH" LANG=C.UTF-8 XDG_CACHE_HOME="$home/.cache" XDG_CONFIG_HOME="$home/.config")
surroundings+=(XDG_DATA_HOME="$home/.local/share" PYTHONNOUSERSITE=1)
machine=(http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE REQUESTS_CA_BUNDLE PIP_CERT PYENV_ROOT)
for name in "${machine[@]}"; do
  [ -n "${!name:-}" ] && surroundings+=("$name=${!name}")
done
if [ $pip = yes ]; then
  surroundings+=(PIP_CACHE_DIR="${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pip}")
  while IFS= read -r pair; do surroundings+=("$pair"); done < <(env | grep -E '^PIP_' | grep -vE '^PIP_(CACHE_DIR|CERT)=')
  for file in "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" "$HOME/.pip/pip.conf"; do
    [ -f "$file" ] && { surroundings+=(PIP_CONFIG_FILE="$file"); break; }
  done
fi

failed=0 number=0
step() { # step NAME COMMAND...: run it in the clone, note its seconds and how it ended
  local name=$1 start=$SECONDS status=0 log
  shift
  number=$((number + 1))
  log=$logs/$(printf %02d "$number").log
  printf '%s\n' "$*" > "$log"
  (cd "$project" && env -i "${surroundings[@]}" "$@") >> "$log" 2>&1 < /dev/null || status=$?
  local state=ok
  [ $status = 0 ] || { state="failed ($status)"; failed=$((failed + 1)); }
  printf '%5d s  %-12s %s\n' "$((SECONDS - start))" "$state" "$name"
  [ $status = 0 ] || tail -n 5 "$log" | sed 's/^/            /'
  return $status
}

made=(make)
[ -n "$python" ] && made+=("PYTHON=$python")
if [ $quick = yes ]; then
  step "install, as make demo does" "${made[@]}" .venv/.installed-core
else
  step "make demo" "${made[@]}" demo
fi
if [ $failed = 0 ]; then
  while read -r line; do
    case $line in ''|'#'*) continue ;; esac
    student=$(cd "$project" && ls -t runs/*/student.safetensors 2>/dev/null | head -n 1)
    line=${line//STUDENT/${student:-no-student}}
    # The first word is a program of the environment that was made; the rest has no quotes and no stars.
    read -ra words <<< "$line"
    step "$line" ".venv/bin/${words[0]}" "${words[@]:1}"
  done < "$project/tests/fresh/commands.txt"
  [ $tests = no ] || step "make test" "${made[@]}" test
  # A finished run is found again, not done again.
  [ $quick = yes ] || step "make demo, again" "${made[@]}" demo
fi

left=$(cd "$project" && git status --porcelain 2>/dev/null | grep -vE '^\?\? out/' || true)
if [ $tree = no ] && [ -n "$left" ]; then
  echo "files of the clone were changed: $left"
  failed=$((failed + 1))
fi
echo
code=$(git -C "$top" rev-parse --short HEAD)$([ $tree = no ] || echo ' and the working tree')
version=$("$project/.venv/bin/python" --version 2>/dev/null || echo 'no Python')
echo "$number steps, $failed failed, ${SECONDS} s; $code, $version, $(uname -sm)"
if [ $failed = 0 ] && [ $keep_folder = no ]; then
  rm -rf "$place"
else
  echo "logs: $logs"
  [ $keep_folder = yes ] || rm -rf "$project" "$home"
fi
[ $failed = 0 ]
