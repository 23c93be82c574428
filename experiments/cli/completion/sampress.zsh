# $1: the token at the cursor; the others: those before it.
_sampress_complete() {
  local current=$1 command=run word key group choice
  shift
  local -a list
  for word in "$@"; do
    if (( ${${=$(_sampress_commands)}[(Ie)$word]} )); then command=$word; break; fi
  done
  if [[ $current == *=* ]]; then
    key=${current%%=*}
    list=(${=$(_sampress_values "$command" "$key")})
    compset -P '*='
    _sampress_is_path "$key" && _files
    compset -P '*,' || compset -P '\['
    (( ${#list} )) && compadd -- $list
    return 0
  fi
  list=(${=$(_sampress_keys "$command")})
  for group in method then data logger; do
    choice=$(_sampress_default "$command $group")
    for word in "$@"; do [[ $word == $group=* ]] && choice=${word#*=}; done
    [[ -n $choice ]] && list+=(${=$(_sampress_below "$group=$choice")})
  done
  if [[ $current == -* ]]; then
    compadd -- --help -m --cfg
  elif (( $# )) && [[ ${@[-1]} == completion ]]; then
    compadd -- ${=$(_sampress_values completion shell)}
  else
    compadd -S = -q -- $list
    (( $# )) || compadd -- ${=$(_sampress_commands)}
    [[ $command == compare ]] && (( $# )) && _files
  fi
}

_sampress() {
  _sampress_complete "$PREFIX" "${(@)words[2,CURRENT-1]}"
}

# python -m experiments; every other call is completed as it was before.
_sampress_python() {
  local place=${words[(Ie)-m]}
  if (( place && place + 1 < CURRENT )) && [[ ${words[place+1]} == experiments ]]; then
    _sampress_complete "$PREFIX" "${(@)words[place+2,CURRENT-1]}"
  elif [[ -n ${_sampress_before[$service]-} ]]; then
    ${_sampress_before[$service]} "$@"
  else
    _default "$@"
  fi
}

(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
typeset -gA _sampress_before
for _sampress_name in python python3 torchrun; do
  [[ ${_comps[$_sampress_name]-} == _sampress_python ]] || _sampress_before[$_sampress_name]=${_comps[$_sampress_name]-}
  compdef _sampress_python $_sampress_name
done
unset _sampress_name
compdef _sampress sampress
