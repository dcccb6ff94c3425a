# Completion of mcrd, mcrctl, mcrgen and mcrd-web for bash: to be sourced, or to be a file of the name of each
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
            -*) ! _mcrd_value "${words[at]}" || ((++at)) ;;
            *) command=${command:-${words[at]}} ;;
        esac
    done

    COMPREPLY=()
    wanted=''
    if ! _mcrd_value "$previous"; then
        _mcrd_known "$program:$command"
        [[ $word != -* ]] || wanted=$options
    fi
    case $wanted in
        @files) _mcrd_files "$word" && return ;;
        @interfaces) wanted=$(cd /sys/class/net 2>/dev/null && echo *) ;;
        @rules) wanted=$(_mcrd_rules "$control") ;;
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

# What follows is made by `make completion`.

_mcrd_known() {
    case $1 in
        mcrd:) options='--help --config --control --check --log-level --version' wanted='' ;;
        mcrctl:) options='--help --json --control --version' wanted='reload use standby active follow diff status stats rules members top graph web check doctor import explain' ;;
        mcrctl:reload | mcrctl:diff | mcrctl:status | mcrctl:stats | mcrctl:members | mcrctl:web) options='--help --json --control' wanted='' ;;
        mcrctl:use | mcrctl:standby | mcrctl:active | mcrctl:follow | mcrctl:rules) options='--help --json --control' wanted='@rules' ;;
        mcrctl:top) options='--help --json --control --interval --count' wanted='' ;;
        mcrctl:graph) options='--help --json --control --format' wanted='@rules' ;;
        mcrctl:check | mcrctl:import) options='--help --json --control' wanted='@files' ;;
        mcrctl:doctor) options='--help --json --control --config' wanted='' ;;
        mcrctl:explain) options='--help --json --control --seconds --config' wanted='@rules' ;;
        mcrgen:) options='--help' wanted='send receive' ;;
        mcrgen:send) options='--help --interface --address --port --flows --json --source-port --rate --size --count --ttl --burst' wanted='' ;;
        mcrgen:receive) options='--help --interface --address --port --flows --json --source --expect --timeout' wanted='' ;;
        mcrd-web:) options='--help --version --control --listen --token-file --proxy-header --proxy --name --unit' wanted='' ;;
    esac
}

_mcrd_value() {
    case $1 in
        --config | --control | --token-file) wanted='@files' ;;
        --log-level) wanted='debug info warning error' ;;
        --address | --burst | --count | --expect | --flows | --interval | --listen | --name | --port | --proxy | --proxy-header | --rate | --seconds | --size | --source | --source-port | --timeout | --ttl | --unit) wanted='' ;;
        --format) wanted='text svg' ;;
        --interface) wanted='@interfaces' ;;
        *) return 1 ;;
    esac
}

complete -F _mcrd_complete mcrd mcrctl mcrgen mcrd-web
