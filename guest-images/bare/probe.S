/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Instructions that may fault. Each function returns 0, or the vector of the
 * exception. trap() looks the instruction up in the table .extable, fills the
 * struct fault that R8 points to, puts the vector in RAX and resumes at the
 * second address of the table entry.
 */

/* DR0 is enabled, for writes, of 4 bytes; bit 10 is always set. */
#define DR7_WRITES_OF_4 0xd0403

    .macro PROBE name
    .text
    .globl \name
    .type \name, @function
    .balign 16
\name:
    .endm

    .macro RESUMES at, to
    .section .extable, "a"
    .quad \at, \to
    .text
    .endm

/* int probe_read64(uint64_t address, uint64_t *value, struct fault *) */
PROBE probe_read64
    movq %rdx, %r8
    xorl %eax, %eax
1:  movq (%rdi), %rcx
    movq %rcx, (%rsi)
2:  ret
    RESUMES 1b, 2b
    .size probe_read64, . - probe_read64

/* int probe_read8(uint64_t address, uint64_t *value, struct fault *) */
PROBE probe_read8
    movq %rdx, %r8
    xorl %eax, %eax
1:  movzbl (%rdi), %ecx
    movq %rcx, (%rsi)
2:  ret
    RESUMES 1b, 2b
    .size probe_read8, . - probe_read8

/* int probe_write64(uint64_t address, uint64_t value, struct fault *) */
PROBE probe_write64
    movq %rdx, %r8
    xorl %eax, %eax
1:  movq %rsi, (%rdi)
2:  ret
    RESUMES 1b, 2b
    .size probe_write64, . - probe_write64

/* int probe_add64(uint64_t address, uint64_t *value, struct fault *): *value in, old value out */
PROBE probe_add64
    movq %rdx, %r8
    movq (%rsi), %rcx
    xorl %eax, %eax
1:  lock xaddq %rcx, (%rdi)
    movq %rcx, (%rsi)
2:  ret
    RESUMES 1b, 2b
    .size probe_add64, . - probe_add64

/*
 * int probe_exec(uint64_t address, uint64_t *value, struct fault *)
 * Calls a function without arguments. If that function faults, its RIP is not
 * in the table; trap() then unwinds to probe_exec_return.
 */
PROBE probe_exec
    pushq %rsi
    movq %rdx, %r8
    movq %rsi, %rax                     /* zeros decode as addb %al, (%rax): make that harmless */
    call *%rdi
    .globl probe_exec_value
probe_exec_value:
    movq (%rsp), %rsi
    movq %rax, (%rsi)
    xorl %eax, %eax
    .globl probe_exec_return
probe_exec_return:
    popq %rsi
    ret
    .size probe_exec, . - probe_exec

/* int probe_rdmsr(uint32_t index, uint64_t *value, struct fault *) */
PROBE probe_rdmsr
    movq %rdx, %r8
    movl %edi, %ecx
1:  rdmsr
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, (%rsi)
    xorl %eax, %eax
2:  ret
    RESUMES 1b, 2b
    .size probe_rdmsr, . - probe_rdmsr

/*
 * int probe_watched(uint64_t *watched, struct fault *): raises #UD while a data breakpoint, in DR0 and
 * DR7, is on the word where the exception's frame begins.  Says where that is.
 */
PROBE probe_watched
    movq %rsi, %r8
    movq %rsp, %rcx
    andq $-16, %rcx                     /* as the processor does for a frame */
    subq $8, %rcx
    movq %rcx, (%rdi)
    movq %rcx, %dr0
    movl $DR7_WRITES_OF_4, %ecx
    xorl %eax, %eax
    movq %rcx, %dr7
1:  ud2
2:  ret
    RESUMES 1b, 2b
    .size probe_watched, . - probe_watched

/* int probe_cpuid(uint64_t regs[4], struct fault *): EAX, EBX, ECX, EDX, in and out */
PROBE probe_cpuid
    pushq %rbx
    movq %rsi, %r8
    movl (%rdi), %eax
    movl 16(%rdi), %ecx
1:  cpuid
    movq %rax, (%rdi)
    movq %rbx, 8(%rdi)
    movq %rcx, 16(%rdi)
    movq %rdx, 24(%rdi)
    xorl %eax, %eax
2:  popq %rbx
    ret
    RESUMES 1b, 2b
    .size probe_cpuid, . - probe_cpuid

/* int probe_wrmsr(uint32_t index, uint64_t value, struct fault *) */
PROBE probe_wrmsr
    movq %rdx, %r8
    movl %edi, %ecx
    movl %esi, %eax
    movq %rsi, %rdx
    shrq $32, %rdx
1:  wrmsr
    xorl %eax, %eax
2:  ret
    RESUMES 1b, 2b
    .size probe_wrmsr, . - probe_wrmsr

/*
 * int probe_vmcall(const uint64_t args[5], uint64_t *value, struct fault *)
 * KVM's hypercall ABI: number in RAX, arguments in RBX, RCX, RDX and RSI, result
 * in RAX. probe_vmmcall is the same with VMMCALL.
 */
    .macro HYPERCALL name, instruction
PROBE \name
    pushq %rbx
    movq %rdx, %r8
    movq %rsi, %r9
    movq (%rdi), %rax
    movq 8(%rdi), %rbx
    movq 16(%rdi), %rcx
    movq 24(%rdi), %rdx
    movq 32(%rdi), %rsi
1:  \instruction
    movq %rax, (%r9)
    xorl %eax, %eax
2:  popq %rbx
    ret
    RESUMES 1b, 2b
    .size \name, . - \name
    .endm

    HYPERCALL probe_vmcall, vmcall
    HYPERCALL probe_vmmcall, vmmcall

/*
 * int probe_NAME(uint64_t regs[4], struct fault *)
 * regs[0..2] are RAX, RCX and RDX, in and out; regs[3] is RFLAGS, out only.
 * See the AMD64 Architecture Programmer's Manual, volume 3.
 */
    .macro THREE_REGISTERS name, bytes:vararg
PROBE \name
    movq %rsi, %r8
    movq (%rdi), %rax
    movq 8(%rdi), %rcx
    movq 16(%rdi), %rdx
1:  .byte \bytes
    pushfq
    popq 24(%rdi)
    movq %rax, (%rdi)
    movq %rcx, 8(%rdi)
    movq %rdx, 16(%rdi)
    xorl %eax, %eax
2:  ret
    RESUMES 1b, 2b
    .size \name, . - \name
    .endm

    THREE_REGISTERS probe_pvalidate, 0xf2, 0x0f, 0x01, 0xff
    THREE_REGISTERS probe_rmpadjust, 0xf3, 0x0f, 0x01, 0xfe
    THREE_REGISTERS probe_rmpquery, 0xf3, 0x0f, 0x01, 0xfd
    THREE_REGISTERS probe_vmgexit, 0xf3, 0x0f, 0x01, 0xd9

/*
 * int probe_tdcall(uint64_t regs[11], struct fault *)
 * regs are RAX, RCX, RDX and R8 to R15, in and out. R8 is a TDCALL operand, so
 * the pointer to the struct fault is on the stack, above that to regs.
 */
PROBE probe_tdcall
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rsi
    pushq %rdi
    movq (%rdi), %rax
    movq 8(%rdi), %rcx
    movq 16(%rdi), %rdx
    movq 24(%rdi), %r8
    movq 32(%rdi), %r9
    movq 40(%rdi), %r10
    movq 48(%rdi), %r11
    movq 56(%rdi), %r12
    movq 64(%rdi), %r13
    movq 72(%rdi), %r14
    movq 80(%rdi), %r15
    .globl probe_tdcall_at
probe_tdcall_at:
    .byte 0x66, 0x0f, 0x01, 0xcc
    movq (%rsp), %rdi
    movq %rax, (%rdi)
    movq %rcx, 8(%rdi)
    movq %rdx, 16(%rdi)
    movq %r8, 24(%rdi)
    movq %r9, 32(%rdi)
    movq %r10, 40(%rdi)
    movq %r11, 48(%rdi)
    movq %r12, 56(%rdi)
    movq %r13, 64(%rdi)
    movq %r14, 72(%rdi)
    movq %r15, 80(%rdi)
    xorl %eax, %eax
2:  popq %rdi
    popq %rsi
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
    RESUMES probe_tdcall_at, 2b
    .size probe_tdcall, . - probe_tdcall

/* The command exec stores this word into a page: a function that returns 0x600d. */
    .section .rodata
    .balign 8
    .globl exec_stub
exec_stub:
    movl $0x600d, %eax
    ret
    .balign 8, 0xcc

    .section .note.GNU-stack, "", @progbits
