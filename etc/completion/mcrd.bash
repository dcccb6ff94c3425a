# Completion of mcrd, mcrctl and mcrgen for bash: to be sourced, or to be a file of the name of each
# in bash-completion's directory. It needs nothing of bash-completion.
#
# SPDX-License-Identifier: GPL-3.0-or-later

_mcrd_complete() {
    local words=() word previous program=${COMP_WORDS[0]##*/} command='' control='' options='' wanted=''
    local part at
    # bash splits words at = and : too; here they are whole again.
    for part in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [[ ${#words[@]} -gt 1 && ($part == [=:]* || ${words[-1]} == *[=:] && -n $part) ]]; then
            words[-1]+=$part
        else
            words+=("$part")
        fi
    done
    word=${words[-1]} previous=${words[-2]}
    if [[ $word == --*=* ]]; then
        previous=${word%%=*} word=${word#*=}
    fi
    for ((at = 1; at < ${#words[@]} - 1; at++)); do
        case ${words[at]} in
            --control) control=${words[++at]} ;;
            --control=*) control=${words[at]#*=} ;;
            --interval | --count | --seconds | --config | --interface | --address | --port | --flows) ((++at)) ;;
            -*) ;;
            *) command=${command:-${words[at]}} ;;
        esac
    done

    COMPREPLY=()
    case $previous in
        --config | --control) _mcrd_files "$word" && return ;;
        --log-level) wanted='debug info warning error' ;;
        --interface) wanted=$(cd /sys/class/net 2>/dev/null && echo *) ;;
        --address | --port | --flows | --source-port | --rate | --size | --count | --ttl | --burst | \
            --source | --expect | --timeout | --interval | --seconds) return ;;
        *)
            case $program:$command in
                mcrd:*) options='--config --control --check --log-level --version' ;;
                mcrctl:)
                    options='--json --control --version'
                    wanted='reload diff status rules stats top explain check doctor import'
                    ;;
                mcrctl:top) options='--json --control --interval --count' ;;
                mcrctl:explain) options='--json --control --seconds --config' ;;
                mcrctl:doctor) options='--json --control --config' ;;
                mcrctl:*) options='--json --control' ;;
                mcrgen:) wanted='send receive' ;;
                mcrgen:send)
                    options='--interface --address --port --flows --json
                        --source-port --rate --size --count --ttl --burst'
                    ;;
                mcrgen:receive)
                    options='--interface --address --port --flows --json --source --expect --timeout'
                    ;;
            esac
            if [[ $word == -* ]]; then
                wanted="$options --help"
            elif [[ $program == mcrctl ]]; then
                case $command in
                    rules | explain) wanted=$(_mcrd_rules "$control") ;;
                    check | import) _mcrd_files "$word" && return ;;
                esac
            fi
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$wanted" -- "$word")
    # What stands before the last colon, bash keeps.
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%:*}:"}")
    fi
}

_mcrd_files() {
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

# The names of the running daemon's rules; none when it does not answer.
_mcrd_rules() {
    mcrctl ${1:+--control "$1"} rules 2>/dev/null | sed -n 's/^\([^ ][^ ]*\)  .*/\1/p'
}

complete -F _mcrd_complete mcrd mcrctl mcrgen
