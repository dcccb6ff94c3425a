# Completion of mcrd for fish.
# SPDX-License-Identifier: GPL-3.0-or-later

# What follows is made by `make completion`.

complete -c mcrd -f
complete -c mcrd -s h -l help -d 'Show this help message and exit'
complete -c mcrd -l config -rF -d 'The rule file'
complete -c mcrd -l control -rF -d 'The control socket, for mcrctl'
complete -c mcrd -l check -d 'Check the rule file and exit'
complete -c mcrd -l log-level -rfa 'debug info warning error' -d 'Overrides log_level of the rule file'
complete -c mcrd -l version -d 'Show program'"'"'s version number and exit'
