/*
 * ptrace(2) for User Mode Linux before 6.13 on a CPU whose XSAVE state is larger than its buffers, as with AMX. The kernel
 * takes only a whole one (xstateregs_set in arch/x86/kernel/fpu/regset.c) and answers EFAULT otherwise. What the buffers lack
 * is the state of features that nobody in there uses. Built without libc's headers, for whatever libc is there.
 */
struct iovec { /* linux/uio.h */
	void *base;
	unsigned long len;
};

enum {
	SYS_ptrace = 101,
	PTRACE_PEEKTEXT = 1,
	PTRACE_PEEKUSER = 3,
	PTRACE_GETREGSET = 0x4204,
	PTRACE_SETREGSET = 0x4205,
	NT_X86_XSTATE = 0x202,
};

long syscall(long number, ...);
void *memcpy(void *to, const void *from, unsigned long size);

long ptrace(int request, int pid, void *addr, void *data)
{
	static char state[1 << 16];
	static unsigned long size; /* of a whole state */
	struct iovec *given = data, whole = { state, sizeof(state) };

	if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) { /* libc returns what the system call stores */
		long word, err = syscall(SYS_ptrace, (long)request, (long)pid, addr, &word);

		return err < 0 ? err : word;
	}
	if (request != PTRACE_SETREGSET || addr != (void *)NT_X86_XSTATE)
		return syscall(SYS_ptrace, (long)request, (long)pid, addr, data);
	if (size == 0) {
		if (syscall(SYS_ptrace, (long)PTRACE_GETREGSET, (long)pid, addr, &whole) < 0)
			return -1;
		size = whole.len;
	}
	memcpy(state, given->base, given->len);
	whole.len = size;
	return syscall(SYS_ptrace, (long)request, (long)pid, addr, &whole);
}
