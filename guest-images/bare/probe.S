/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Instructions that may fault. Each returns 0, or the vector of the
 * exception it met; trap() finds the instruction in the table .extable,
 * fills the struct fault that R8 points to, puts the vector in RAX and goes
 * on at the second address of the entry.
 */

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
 * int probe_exec(uint64_t address, uint64_t *value, struct fault *): call
 * a function without arguments. A fault inside it, at a RIP that is in no
 * table, is unwound by trap() to probe_exec_return.
 */
PROBE probe_exec
    pushq %rsi
    movq %rdx, %r8
    movq %rsi, %rax                     /* zeros are addb %al, (%rax): harmless */
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
 * KVM's hypercall ABI: number in RAX, then RBX, RCX, RDX, RSI; result in RAX.
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

/* What exec stores into a page, one word: a function that returns 0x600d. */
    .section .rodata
    .balign 8
    .globl exec_stub
exec_stub:
    movl $0x600d, %eax
    ret
    .balign 8, 0xcc

    .section .note.GNU-stack, "", @progbits
