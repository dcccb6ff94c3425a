# Completion of mcrctl for fish.
# SPDX-License-Identifier: GPL-3.0-or-later

# The names of the running daemon's rules; none when it does not answer.
function __mcrctl_rules
    set -l words (commandline -opc)
    set -l control
    for at in (seq (count $words))
        switch $words[$at]
            case '--control=*'
                set control $words[$at]
            case --control
                set -l next (math $at + 1)
                set control --control=$words[$next]
        end
    end
    mcrctl $control rules 2>/dev/null | string replace -rf '^(\S+)  .*' '$1'
end

# What follows is made by `make completion`.

complete -c mcrctl -f
complete -c mcrctl -s h -l help -d 'Show this help message and exit'
complete -c mcrctl -l json -d 'Print JSON'
complete -c mcrctl -l control -rF -d 'The daemon'"'"'s control socket'
complete -c mcrctl -n __fish_use_subcommand -l version -d 'Show program'"'"'s version number and exit'
complete -c mcrctl -n '__fish_seen_subcommand_from use explain' -fa '(__mcrctl_rules)'
complete -c mcrctl -n '__fish_seen_subcommand_from use' -f
complete -c mcrctl -n '__fish_seen_subcommand_from standby active follow' -fa '(__mcrctl_rules)'
complete -c mcrctl -n '__fish_seen_subcommand_from rules' -fa '(__mcrctl_rules)'
complete -c mcrctl -n '__fish_seen_subcommand_from top' -l interval -rf -d 'Seconds between two refreshes'
complete -c mcrctl -n '__fish_seen_subcommand_from top' -l count -rf -d 'End after N refreshes'
complete -c mcrctl -n '__fish_seen_subcommand_from graph' -fa '(__mcrctl_rules)'
complete -c mcrctl -n '__fish_seen_subcommand_from graph' -l format -rfa 'text svg' -d 'Text or svg'
complete -c mcrctl -n '__fish_seen_subcommand_from check' -F
complete -c mcrctl -n '__fish_seen_subcommand_from doctor' -l config -rF -d 'The rule file'
complete -c mcrctl -n '__fish_seen_subcommand_from import' -F
complete -c mcrctl -n '__fish_seen_subcommand_from explain' -l seconds -rf -d 'How long to look at the input interface'
complete -c mcrctl -n '__fish_seen_subcommand_from explain' -l config -rF -d 'Explain a rule of this file; asks no daemon'
complete -c mcrctl -n __fish_use_subcommand -a reload -d 'Read the rule file again, wait until it is applied, and say what changed'
complete -c mcrctl -n __fish_use_subcommand -a use -d 'Have one of several inputs of a rule used, until `mcrctl use RULE auto`'
complete -c mcrctl -n __fish_use_subcommand -a standby -d 'Have a rule stand by while another host relays'
complete -c mcrctl -n __fish_use_subcommand -a active -d 'Have a rule relay, whatever addresses this host has'
complete -c mcrctl -n __fish_use_subcommand -a follow -d 'Have a rule go by its active_with again'
complete -c mcrctl -n __fish_use_subcommand -a diff -d 'Say what a reload would change'
complete -c mcrctl -n __fish_use_subcommand -a status -d 'State of the daemon and its workers'
complete -c mcrctl -n __fish_use_subcommand -a stats -d 'All counters'
complete -c mcrctl -n __fish_use_subcommand -a rules -d 'Rules and their states'
complete -c mcrctl -n __fish_use_subcommand -a members -d 'Who wants which groups, where this host asks (querier)'
complete -c mcrctl -n __fish_use_subcommand -a top -d 'Rules and interfaces, live'
complete -c mcrctl -n __fish_use_subcommand -a graph -d 'A picture of what flows where, as text or SVG'
complete -c mcrctl -n __fish_use_subcommand -a web -d 'The same in a browser, live: print an address of this host, and serve until interrupted'
complete -c mcrctl -n __fish_use_subcommand -a check -d 'Check a rule file; needs no daemon'
complete -c mcrctl -n __fish_use_subcommand -a doctor -d 'Say which settings of this host stand in the way'
complete -c mcrctl -n __fish_use_subcommand -a import -d 'Convert the rules of another relay, and print them'
complete -c mcrctl -n __fish_use_subcommand -a explain -d 'Say why nothing flows through a rule, step by step'
