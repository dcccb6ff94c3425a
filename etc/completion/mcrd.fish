# Completion of mcrd for fish.
# SPDX-License-Identifier: GPL-3.0-or-later

complete -c mcrd -f
complete -c mcrd -s h -l help -d 'Show the usage'
complete -c mcrd -l config -rF -d 'The rule file'
complete -c mcrd -l control -rF -d 'Where mcrctl reaches it'
complete -c mcrd -l check -d 'Check the rule file and exit'
complete -c mcrd -l log-level -xa 'debug info warning error' -d 'Instead of the one of the rule file'
complete -c mcrd -l version -d 'Show the version'
