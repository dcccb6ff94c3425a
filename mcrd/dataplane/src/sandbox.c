/* What the sandbox takes from the kernel that neither Python 3.11 nor python-prctl have. sandbox.py says in which
 * order and why.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "sandbox.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shared.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65 /* linux/prctl.h, since Linux 6.3 */
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCH AUDIT_ARCH_RISCV64
#elif defined(__powerpc64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ARCH AUDIT_ARCH_PPC64LE
#else
#error "the system call filter is for x86-64, arm64, riscv64 and ppc64el"
#endif

static int result_of(long result)
{
	return result < 0 ? -errno : 0;
}

int sandbox_unshare(int namespaces)
{
	return result_of(unshare(namespaces));
}

/* pivot_root(2), "pivot_root(".", ".")": the old root lies on the new one, and is taken off it. In a chroot, whose
 * root is no mount, the new root can only be another chroot: nothing outside is held that would lead there. */
int sandbox_empty_root(const char *on)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 && errno != EINVAL)
		return -errno;
	if (mount("none", on, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=1,mode=0") < 0)
		return -errno;
	if (chdir(on) < 0)
		return -errno;
	if (syscall(SYS_pivot_root, ".", ".") == 0) {
		if (umount2(".", MNT_DETACH) < 0)
			return -errno;
	} else if (errno != EINVAL || chroot(".") < 0) {
		return -errno;
	}
	if (chdir("/") < 0)
		return -errno;
	return result_of(mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
}

/* Sets of capabilities are masks here, with bit 1 << CAP_X. Also drops those of a later kernel than our headers': to
 * read one that there is not fails. */
int sandbox_limit_bounding_set(uint64_t kept)
{
	int number, is_in;

	for (number = 0; (is_in = prctl(PR_CAPBSET_READ, number, 0, 0, 0)) >= 0; number++)
		if (is_in && !((kept >> number) & 1) && prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0)
			return -errno;
	return 0;
}

/* Uid 0 means nothing, a change of uid brings nothing back, and all that for good. */
int sandbox_lock_securebits(void)
{
	return result_of(prctl(PR_SET_SECUREBITS,
			       SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
				       SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
				       SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
			       0, 0, 0));
}

static int get_capabilities(struct __user_cap_data_struct *sets)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

	return result_of(syscall(SYS_capget, &header, sets));
}

/* All sets but the bounding one: of the permitted ones, those in `kept` stay, and no program inherits any. */
int sandbox_limit_capabilities(uint64_t kept)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
	int i, result;

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -errno;
	result = get_capabilities(sets);
	if (result < 0)
		return result;
	for (i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		sets[i].permitted &= (uint32_t)(kept >> (32 * i));
		sets[i].effective = sets[i].permitted;
		sets[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &header, sets) < 0)
		return -errno;
	result = get_capabilities(sets);
	for (i = 0; result == 0 && i < _LINUX_CAPABILITY_U32S_3; i++)
		if ((sets[i].permitted & ~(uint32_t)(kept >> (32 * i))) | sets[i].inheritable)
			result = -EPERM;
	return result;
}

/* Those that count now. */
uint64_t sandbox_capabilities(void)
{
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];

	if (get_capabilities(sets) < 0)
		return 0;
	return (uint64_t)sets[1].effective << 32 | sets[0].effective;
}

/* PR_SET_MDWE: what was not executable does not become so. */
int sandbox_refuse_code(void)
{
	return result_of(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0UL, 0UL, 0UL));
}

/* A ruleset that allows nothing of all that the kernel's version of it knows, landlock(7). */
int sandbox_landlock(void)
{
	/* As of ABI 7; the headers here may be older. `fs` has 13 rights in ABI 1, `net` two from 4 on. */
	struct {
		uint64_t fs, net, scoped;
	} handled = { 0 };
	static const uint64_t fs[] = { 0, 0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff };
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */), ruleset;
	size_t size = abi >= 6 ? sizeof(handled) : abi >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t);
	int result;

	if (abi < 1)
		return abi < 0 ? -errno : -ENOSYS;
	handled.fs = fs[abi < 5 ? abi : 5];
	handled.net = abi >= 4 ? 0x3 : 0;    /* TCP: bind, connect */
	handled.scoped = abi >= 6 ? 0x3 : 0; /* abstract UNIX sockets, signals */
	ruleset = syscall(SYS_landlock_create_ruleset, &handled, size, 0);
	if (ruleset < 0)
		return -errno;
	result = result_of(syscall(SYS_landlock_restrict_self, ruleset, 0));
	close((int)ruleset);
	return result;
}

/* A socket that a worker was handed sends nowhere any more, whoever holds a copy: connect(2), AF_UNSPEC. (shutdown()
 * would do for UDP, but not for a raw socket.) */
int sandbox_disconnect(int descriptor)
{
	struct sockaddr nowhere = { .sa_family = AF_UNSPEC };

	return result_of(connect(descriptor, &nowhere, sizeof(nowhere)));
}

uint32_t sandbox_architecture(void)
{
	return ARCH;
}

int sandbox_system_call(const char *name)
{
	unsigned int number;

	for (number = 0; number < mcrd_system_call_count; number++)
		if (mcrd_system_calls[number] && strcmp(mcrd_system_calls[number], name) == 0)
			return (int)number;
	return -ENOENT;
}

/* On SIGSYS: whoever is here was told what to do by somebody else than us, or we forgot a call. */
static void on_violation(int number, siginfo_t *info, void *context)
{
	unsigned int call = (unsigned int)info->si_syscall;
	int known = info->si_arch == ARCH && call < mcrd_system_call_count && mcrd_system_calls[call];
	const char *name = known ? mcrd_system_calls[call] : "?";
	char text[256], digits[12];
	size_t length = 0, left = sizeof(digits);
	const char *parts[] = { "the sandbox forbids the system call ", name, " (", NULL, "); rule set: seccomp\n" };
	ssize_t written;
	unsigned int i;

	(void)number;
	(void)context;
	digits[--left] = '\0';
	do
		digits[--left] = (char)('0' + call % 10);
	while ((call /= 10) > 0);
	parts[3] = digits + left;
	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		size_t part = strlen(parts[i]);

		if (part > sizeof(text) - length)
			part = sizeof(text) - length;
		memcpy(text + length, parts[i], part);
		length += part;
	}
	written = write(STDERR_FILENO, text, length);
	(void)written;
	_exit(MCRD_VIOLATION);
}

/* `filter` is an array of struct sock_filter. */
int sandbox_filter(const void *filter, uint32_t instructions)
{
	struct sock_fprog program = { .len = (unsigned short)instructions, .filter = (void *)(uintptr_t)filter };
	struct sigaction action = { .sa_sigaction = on_violation, .sa_flags = SA_SIGINFO };
	sigset_t sigsys;

	sigemptyset(&sigsys);
	sigaddset(&sigsys, SIGSYS);
	if (sigaction(SIGSYS, &action, NULL) < 0 || sigprocmask(SIG_UNBLOCK, &sigsys, NULL) < 0)
		return -errno;
	return result_of(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}
