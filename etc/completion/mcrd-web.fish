# Completion of mcrd-web for fish.
# SPDX-License-Identifier: GPL-3.0-or-later

# What follows is made by `make completion`.

complete -c mcrd-web -f
complete -c mcrd-web -s h -l help -d 'Show this help message and exit'
complete -c mcrd-web -l version -d 'Show program'"'"'s version number and exit'
complete -c mcrd-web -l control -rF -d 'The daemon'"'"'s control socket'
complete -c mcrd-web -l listen -rf -d 'Where to listen'
complete -c mcrd-web -l token-file -rF -d 'A file with the token that the page is opened with'
complete -c mcrd-web -l proxy-header -rf -d 'The header by which a proxy says who comes'
complete -c mcrd-web -l proxy -rf -d 'A proxy that may say so'
complete -c mcrd-web -l name -rf -d 'A name by which browsers ask for the page'
complete -c mcrd-web -l unit -rf -d 'Whose journal is shown'
