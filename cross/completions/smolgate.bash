# Completion of bash for smolgate(8).

_smolgate() {
  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
  local flags='-c --config -p --prefix -e --error-log -g --directives -t --test -T --dump -q --quiet -s --signal --pid
    --stop-timeout --check -v --version -V --build --listen --proxy --static -h --help'
  case $before in
    -c | --config | -e | --error-log) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
    -p | --prefix) mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
    -s | --signal) mapfile -t COMPREPLY < <(compgen -W 'stop quit reload reopen upgrade' -- "$current") ;;
    -g | --directives | --pid | --stop-timeout | --check | --listen | --proxy | --static) COMPREPLY=() ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$current") ;;
  esac
}

complete -o filenames -F _smolgate smolgate
