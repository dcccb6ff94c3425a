# Completion of mcrgen for fish.
# SPDX-License-Identifier: GPL-3.0-or-later

# What follows is made by `make completion`.

complete -c mcrgen -f
complete -c mcrgen -s h -l help -d 'Show this help message and exit'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l interface -rfa '(__fish_print_interfaces)' -d 'To send from, or to receive on'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l address -rf -d 'The group or host'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l port -rf -d 'The UDP port'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l flows -rf -d 'Consecutive addresses from --address on'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l json -d 'Print the result as JSON'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l source-port -rf -d 'Default: any free'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l rate -rf -d 'Packets per second over all flows; 0: as fast as possible'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l size -rf -d 'Of the UDP payload'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l count -rf -d 'Packets over all flows'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l ttl -rf -d 'Default: 1 to a group, 64 to a host'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l burst -rf -d 'Packets to give to the kernel at once; faster, but not evenly spaced'
complete -c mcrgen -n '__fish_seen_subcommand_from receive' -l source -rf -d 'Count packets of this source only'
complete -c mcrgen -n '__fish_seen_subcommand_from receive' -l expect -rf -d 'End after N unique packets; fail when fewer arrive'
complete -c mcrgen -n '__fish_seen_subcommand_from receive' -l timeout -rf -d 'End after this time'
complete -c mcrgen -n __fish_use_subcommand -a send -d 'Send numbered packets at an even pace'
complete -c mcrgen -n __fish_use_subcommand -a receive -d 'Receive and check what `send` sends'
