/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One 16-byte stub per vector. Each builds a struct frame and jumps to trap_common. */

#define VECTORS 256
/* Vectors that push an error code: 8, 10-14, 17, 21, 29, 30. */
#define PUSHES_ERROR 0x60227d00

    .text
    .globl vector_stubs
    .balign 16
vector_stubs:
    .set vector, 0
    .rept VECTORS
    .balign 16
    .if (vector >= 32) || (((PUSHES_ERROR >> (vector & 31)) & 1) == 0)
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .type trap_common, @function
trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    movq %rsp, %rbp
    andq $-16, %rsp
    call trap
    movq %rbp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq
    .size trap_common, . - trap_common

    .section .note.GNU-stack, "", @progbits
