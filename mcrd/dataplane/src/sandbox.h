/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_SANDBOX_H
#define MCRD_SANDBOX_H

/* Names of this machine's system calls by number, or NULL: build.py makes them from its headers. */
extern const char *const mcrd_system_calls[];
extern const unsigned int mcrd_system_call_count;

#endif
