/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Takes each CPU from its entry point to C code in the upper half. The boot CPU
 * enters by PVH (32-bit protected mode, paging off, flat segments), the second
 * CPU in real mode, in a copy of ap_trampoline at TRAMPOLINE_GPA.
 */
#include "layout.h"

#define GPA(symbol) ((symbol) - KERNEL_BASE)

#define CR0_PG_WP_PE    0x80010001
#define CR4_PAE_MCE     0x60
#define MSR_EFER        0xc0000080
#define EFER_LME        0x100
#define PDE_2M          0x83            /* present, writable, 2 MiB */
#define PDE_TABLE       0x03            /* present, writable */
#define CPUID_SEV       0x8000001f
#define CPUID_SEV_SUPPORTED 0x2
#define MSR_SEV_STATUS  0xc0010131
#define SEV_ACTIVE      0x1

#define XEN_ELFNOTE_PHYS32_ENTRY 18

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad GPA(pvh_entry)

    .text
    .code32
    .globl pvh_entry
    .type pvh_entry, @function
pvh_entry:
    cli
    cld
    xorl %eax, %eax
    movl $GPA(bss_start), %edi
    movl $GPA(bss_end), %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    rep stosl

    /*
     * ESI: the C-bit, as the upper 32 bits of a page-table entry; 0 without
     * AMD SEV. Ask CPUID for the C-bit's position before reading SEV_STATUS:
     * that read may end the launch, and CPUID may raise #VC from then on.
     */
    movl %ebx, %ebp
    xorl %esi, %esi
    xorl %edi, %edi
    movl $0x80000000, %eax
    cpuid
    cmpl $CPUID_SEV, %eax
    jb 3f
    movl $CPUID_SEV, %eax
    xorl %ecx, %ecx
    cpuid
    testb $CPUID_SEV_SUPPORTED, %al
    jz 3f
    andl $0x3f, %ebx
    subl $32, %ebx
    btsl %ebx, %edi
    movl $MSR_SEV_STATUS, %ecx
    rdmsr
    testb $SEV_ACTIVE, %al
    cmovnzl %edi, %esi
3:  movl %ebp, %ebx

    /* MAP_GIB page directories; each entry maps 2 MiB. */
    movl $GPA(page_directories), %edi
    xorl %ecx, %ecx
1:  movl %ecx, %eax
    shll $21, %eax
    orl $PDE_2M, %eax
    movl %eax, (%edi, %ecx, 8)
    movl %ecx, %eax
    shrl $11, %eax
    orl %esi, %eax
    movl %eax, 4(%edi, %ecx, 8)
    incl %ecx
    cmpl $(MAP_GIB * 512), %ecx
    jb 1b

    /* One pointer table for the identity map, one for the upper half. */
    leal PDE_TABLE(%edi), %eax
    movl %eax, GPA(pointers_high) + 510 * 8
    xorl %ecx, %ecx
2:  movl %eax, GPA(pointers_low)(, %ecx, 8)
    addl $4096, %eax
    incl %ecx
    cmpl $MAP_GIB, %ecx
    jb 2b
    movl $(GPA(pointers_low) + PDE_TABLE), GPA(root_table)
    movl $(GPA(pointers_high) + PDE_TABLE), GPA(root_table) + 511 * 8

    xorl %ebp, %ebp                     /* the boot CPU */
    jmp enter_long_mode
    .size pvh_entry, . - pvh_entry

    .type enter_long_mode, @function
enter_long_mode:                        /* EBP: number of this CPU */
    lgdt GPA(gdt_pointer32)
    movl $CR4_PAE_MCE, %eax
    movl %eax, %cr4
    movl $GPA(root_table), %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl $CR0_PG_WP_PE, %eax
    movl %eax, %cr0
    ljmp $SEL_CODE64, $GPA(long_mode)
    .size enter_long_mode, . - enter_long_mode

    .code64
long_mode:
    movabsq $upper_half, %rax
    jmp *%rax

    .globl upper_half
    .type upper_half, @function
upper_half:                             /* the launch ends here */
    lgdt gdt_pointer64(%rip)
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    testl %ebp, %ebp
    jnz 3f
    leaq boot_stack_end(%rip), %rsp
    movl %ebx, %edi                     /* hvm_start_info, from the loader */
    call boot_main
    jmp 4f
3:  leaq ap_stack_end(%rip), %rsp
    call ap_main
4:  cli
    hlt
    jmp 4b
    .size upper_half, . - upper_half

/* Copied to TRAMPOLINE_GPA; runs with CS = TRAMPOLINE_GPA >> 4. */
    .code16
    .globl ap_trampoline, ap_trampoline_end
ap_trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - ap_trampoline
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl $SEL_CODE32, $(TRAMPOLINE_GPA + trampoline32 - ap_trampoline)
    .code32
trampoline32:
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %ss
    movl $1, %ebp                       /* the second CPU */
    movl $GPA(enter_long_mode), %eax
    jmp *%eax
    .balign 4
trampoline_gdt_pointer:
    .word gdt_end - gdt - 1
    .long GPA(gdt)
ap_trampoline_end:

    .section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* SEL_CODE64 */
    .quad 0x00cf93000000ffff            /* SEL_DATA */
    .quad 0x00cf9b000000ffff            /* SEL_CODE32 */
gdt_end:
gdt_pointer32:
    .word gdt_end - gdt - 1
    .long GPA(gdt)
gdt_pointer64:
    .word gdt_end - gdt - 1
    .quad gdt

    .bss
    .balign 4096
    .globl root_table
root_table:
    .skip 4096
pointers_low:
    .skip 4096
pointers_high:
    .skip 4096
page_directories:
    .skip 4096 * MAP_GIB
    .skip 16384
boot_stack_end:
    .skip 16384
ap_stack_end:

    .section .note.GNU-stack, "", @progbits
