/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the guest starts, what an exception does, and calls with all their
 * registers.
 */

    .section .text.start, "ax"
    .global _start
_start:
    ldr     x0, =stack_top
    mov     sp, x0
    ldr     x0, =vectors
    msr     vbar_el1, x0
    isb
    bl      main
1:  wfi
    b       1b

    .text
/*
 * guard(function, argument): call it. Returns 0, or 1 if an exception came, which
 * is then in `fault`.
 */
    .global guard
guard:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    ldr     x9, =recover
    mov     x10, sp
    adr     x11, 1f
    stp     x10, x11, [x9]
    mov     x9, x0
    mov     x0, x1
    blr     x9
    mov     x0, #0
    b       2f
1:  mov     x0, #1
2:  ldr     x9, =recover
    stp     xzr, xzr, [x9]
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret

/* An exception ends what guard() has called; without a guard() it ends all. */
trap:
    ldr     x0, =fault
    mrs     x1, esr_el1
    mrs     x2, elr_el1
    mrs     x3, far_el1
    stp     x1, x2, [x0]
    str     x3, [x0, #16]
    ldr     x9, =recover
    ldp     x10, x11, [x9]
    cbz     x11, 1f
    mov     sp, x10
    msr     elr_el1, x11
    eret
1:  wfi
    b       1b

    .balign 2048
vectors:
    .rept   16
    b       trap
    .balign 128
    .endr

/* call_smc(x), call_hvc(x): X0 to X10 from and to that array. */
    .macro  call name, insn
    .global \name
\name:
    stp     x29, x30, [sp, #-32]!
    str     x0, [sp, #16]
    mov     x16, x0
    ldp     x0, x1, [x16]
    ldp     x2, x3, [x16, #16]
    ldp     x4, x5, [x16, #32]
    ldp     x6, x7, [x16, #48]
    ldp     x8, x9, [x16, #64]
    ldr     x10, [x16, #80]
    \insn   #0
    ldr     x16, [sp, #16]
    stp     x0, x1, [x16]
    stp     x2, x3, [x16, #16]
    stp     x4, x5, [x16, #32]
    stp     x6, x7, [x16, #48]
    stp     x8, x9, [x16, #64]
    str     x10, [x16, #80]
    ldp     x29, x30, [sp], #32
    ret
    .endm

    call    call_smc, smc
    call    call_hvc, hvc

    .bss
    .balign 16
recover:
    .skip   16
