# Files and folders that begin with $2, behind $1.
_sampress_paths() {
  local IFS=$'\n' found
  for found in $(compgen -f -- "${2/#\~\//$HOME/}"); do
    [[ -d $found ]] && { found+=/; compopt -o nospace 2>/dev/null; }
    paths+=("$1$found")
  done
}

# Words for $1, the token at the cursor, after the tokens before it; sets COMPREPLY.
_sampress_complete() {
  local current=$1 command=run word key group choice rest start list
  local -a paths
  shift
  for word in "$@"; do
    case " $(_sampress_commands) " in *" $word "*) command=$word; break;; esac
  done
  COMPREPLY=()
  if [[ $current == *=* ]]; then
    key=${current%%=*}; rest=${current#*=}; start=$key=
    list=$(_sampress_values "$command" "$key")
    COMPREPLY=($(compgen -P "$start" -W "$list" -- "$rest"))
    _sampress_is_path "$key" && _sampress_paths "$start" "$rest"
    if ((${#COMPREPLY[@]} + ${#paths[@]} == 0)); then
      # No name with a comma: several of them, or a list.
      if [[ $rest == *,* ]]; then start+=${rest%,*},; rest=${rest##*,}; fi
      if [[ $rest == \[* ]]; then start+=[; rest=${rest#\[}; fi
      COMPREPLY=($(compgen -P "$start" -W "$list" -- "$rest"))
      _sampress_is_path "$key" && _sampress_paths "$start" "$rest"
    fi
  else
    list=$(_sampress_keys "$command")
    for group in method then data logger; do
      choice=$(_sampress_default "$command $group")
      for word in "$@"; do [[ $word == "$group="* ]] && choice=${word#*=}; done
      [[ -n $choice ]] && list+=" $(_sampress_below "$group=$choice")"
    done
    COMPREPLY=($(compgen -S = -W "$list" -- "$current"))
    (($# == 0)) && COMPREPLY+=($(compgen -W "$(_sampress_commands)" -- "$current"))
    [[ $# -gt 0 && ${!#} == completion ]] &&
      COMPREPLY=($(compgen -W "$(_sampress_values completion shell)" -- "$current"))
    [[ $current == -* ]] && COMPREPLY=($(compgen -W "--help -m --cfg" -- "$current"))
    [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null
    [[ $command == compare && $# -gt 0 ]] && _sampress_paths "" "$current"
  fi
  COMPREPLY=("${COMPREPLY[@]#"$_sampress_cut"}")
  for word in "${paths[@]}"; do
    word=${word#"$_sampress_cut"}
    # Inside quotes names stand as they are.
    [[ -n $_sampress_quote ]] || word=$(printf %q "$word")
    COMPREPLY+=("$word")
  done
}

# The tokens of the line up to the cursor, without quotes and backslashes; the last one is empty behind a space.
# bash takes "=", ":" and an open quote for the beginning of a word: _sampress_cut is what stands before it.
_sampress_tokens() {
  local line=${COMP_LINE:0:COMP_POINT} word= begun= sign
  _sampress_line=() _sampress_cut= _sampress_quote=
  while [[ -n $line ]]; do
    sign=${line:0:1} line=${line:1}
    if [[ -n $_sampress_quote && $sign == "$_sampress_quote" ]]; then
      _sampress_quote=
    elif [[ $sign == \\ && $_sampress_quote != "'" ]]; then
      word+=${line:0:1} line=${line:1} begun=1
    elif [[ -n $_sampress_quote ]]; then
      word+=$sign
    elif [[ $sign == [\'\"] ]]; then
      _sampress_quote=$sign _sampress_cut=$word begun=1
    elif [[ $sign == [[:space:]] ]]; then
      [[ -n $begun ]] && _sampress_line+=("$word")
      word= begun= _sampress_cut=
    else
      word+=$sign begun=1
      [[ $sign == [=:] && $COMP_WORDBREAKS == *$sign* ]] && _sampress_cut=$word
    fi
  done
  _sampress_line+=("$word")
}

_sampress() {
  local -a _sampress_line
  local _sampress_cut _sampress_quote
  _sampress_tokens
  local last=$((${#_sampress_line[@]} - 1))
  _sampress_complete "${_sampress_line[last]}" "${_sampress_line[@]:1:last-1}"
}

# python -m experiments; every other call is completed as it was before.
_sampress_python() {
  local -a _sampress_line
  local place last _sampress_cut _sampress_quote
  _sampress_tokens
  last=$((${#_sampress_line[@]} - 1))
  for ((place = 1; place < last - 1; place++)); do
    if [[ ${_sampress_line[place]} == -m ]]; then
      [[ ${_sampress_line[place + 1]} == experiments ]] || break
      _sampress_complete "${_sampress_line[last]}" "${_sampress_line[@]:place+2:last-place-2}"
      return 0
    fi
  done
  COMPREPLY=()
  local before=_sampress_before_${1##*/}
  before=${before//[^a-zA-Z0-9_]/_}
  [[ -n ${!before-} ]] && "${!before}" "$@"
}

_sampress_wrap() {
  local name=$1 spec function
  if ! complete -p "$name" &>/dev/null; then
    # bash-completion would load this at the first TAB and replace ours.
    if declare -F _comp_load >/dev/null; then _comp_load "$name" &>/dev/null
    elif declare -F _completion_loader >/dev/null; then _completion_loader "$name" &>/dev/null; fi
  fi
  spec=$(complete -p "$name" 2>/dev/null)
  if [[ $spec == *" -F "* ]]; then
    function=${spec#* -F }; function=${function%% *}
    [[ $function == _sampress_python || $function == _minimal || $function == _comp_complete_minimal ]] ||
      printf -v "_sampress_before_${name//[^a-zA-Z0-9_]/_}" %s "$function"
  elif [[ -n $spec ]]; then
    return 0  # completed by other means, which are left alone
  fi
  complete -o default -o bashdefault -F _sampress_python "$name"
}

complete -F _sampress sampress
for _sampress_name in python python3 torchrun; do _sampress_wrap "$_sampress_name"; done
unset _sampress_name
