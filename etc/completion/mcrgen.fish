# Completion of mcrgen for fish.
# SPDX-License-Identifier: GPL-3.0-or-later

complete -c mcrgen -f
complete -c mcrgen -s h -l help -d 'Show the usage'
complete -c mcrgen -n __fish_use_subcommand -a send -d 'Send numbered packets'
complete -c mcrgen -n __fish_use_subcommand -a receive -d 'Receive and check them'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l interface -xa '(__fish_print_interfaces)' -d 'To send from, or to receive on'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l address -x -d 'The group or host'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l port -x -d 'The UDP port'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l flows -x -d 'Consecutive addresses'
complete -c mcrgen -n '__fish_seen_subcommand_from send receive' -l json -d 'Print the result as JSON'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l source-port -x -d 'Default: any free'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l rate -x -d 'Packets per second; 0: as fast as possible'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l size -x -d 'Bytes of the UDP payload'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l count -x -d 'Packets over all flows'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l ttl -x -d 'Default: 1 to a group, 64 to a host'
complete -c mcrgen -n '__fish_seen_subcommand_from send' -l burst -x -d 'Packets to hand to the kernel at once'
complete -c mcrgen -n '__fish_seen_subcommand_from receive' -l source -x -d 'Count packets of this source only'
complete -c mcrgen -n '__fish_seen_subcommand_from receive' -l expect -x -d 'End after so many unique packets'
complete -c mcrgen -n '__fish_seen_subcommand_from receive' -l timeout -x -d 'End after this time, in seconds'
