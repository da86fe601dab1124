/*
 * TDCALL: the leaves by which a TD calls the TDX module.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"
#include "hw/restricted-memory/qemu/x86/hooks-x86.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/profiles/tdx/launch.h"
#include "hw/restricted-memory/profiles/tdx/leaves.h"
#include "hw/restricted-memory/trace.h"

#define LEAF(rax)       ((rax) & 0xffff)
#define VERSION(rax)    ((rax) >> 16 & 0xff)
#define RESERVED(rax)   ((rax) >> 24)

/* ABI, TDG.VP.INFO */
static uint64_t vp_info(TdxCall *call)
{
    CPUX86State *env = call->env;
    MachineState *ms = MACHINE(qdev_get_machine());

    env->regs[R_ECX] = call->tdx->gpaw;
    env->regs[R_EDX] = call->tdx->attributes;
    env->regs[R_R8] = (uint64_t)ms->smp.max_cpus << 32 | ms->smp.cpus;
    env->regs[R_R9] = call->cpu->cpu_index;
    env->regs[R_R10] = 1;           /* TDG.SYS.RD is there */
    env->regs[R_R11] = 0;
    return TDX_SUCCESS;
}

typedef struct TdxLeaf {
    const char *name;
    uint64_t (*call)(TdxCall *call);
    uint8_t version;                /* highest */
} TdxLeaf;

/*
 * All others are refused as unknown leaves, as by a module without the feature:
 * 18 and 20 SERVTD.RD/WR, 22 MR.VERIFYREPORT (a module refuses it if the CPU
 * has no SEAMVERIFYREPORT; here there is no key behind a report), and leaves
 * above 27, of later modules.
 */
static const TdxLeaf leaves[] = {
    [0] = { "TDG.VP.VMCALL", tdx_vmcall },
    [1] = { "TDG.VP.INFO", vp_info },
    [2] = { "TDG.MR.RTMR.EXTEND", tdx_rtmr_extend },
    [3] = { "TDG.VP.VEINFO.GET", tdx_veinfo_get },
    [4] = { "TDG.MR.REPORT", tdx_report },
    [5] = { "TDG.VP.CPUIDVE.SET", tdx_cpuidve_set },
    [6] = { "TDG.MEM.PAGE.ACCEPT", tdx_page_accept },
    [7] = { "TDG.VM.RD", tdx_vm_rd, 1 },
    [8] = { "TDG.VM.WR", tdx_vm_wr },
    [9] = { "TDG.VP.RD", tdx_vp_rd_wr },
    [10] = { "TDG.VP.WR", tdx_vp_rd_wr },
    [11] = { "TDG.SYS.RD", tdx_sys_rd },
    [12] = { "TDG.SYS.RDALL", tdx_sys_rdall },
    [23] = { "TDG.MEM.PAGE.ATTR.RD", tdx_page_attr_rd },
    [24] = { "TDG.MEM.PAGE.ATTR.WR", tdx_page_attr_wr },
    [25] = { "TDG.VP.ENTER", tdx_vp_enter },
    [26] = { "TDG.VP.INVEPT", tdx_vp_invept },
    [27] = { "TDG.VP.INVGLA", tdx_vp_invgla },
};

static uint64_t dispatch(TdxCall *call)
{
    uint64_t rax = call->env->regs[R_EAX];
    const TdxLeaf *leaf = LEAF(rax) < ARRAY_SIZE(leaves) ? &leaves[LEAF(rax)]
                                                         : NULL;

    if (RESERVED(rax) || !leaf || !leaf->call
        || VERSION(rax) > leaf->version) {
        return TDX_OPERAND_INVALID | TDX_RAX;
    }
    return leaf->call(call);
}

/* No other vCPU runs. */
static void arm(CPUState *cpu, run_on_cpu_data data)
{
    tdx_arm(data.host_ptr);
}

bool tdx_instruction(RestrictedMemory *rm, const RestrictedInsn *insn)
{
    CPUState *cpu = insn->cpu;
    CPUX86State *env = cpu_env(cpu);
    TdxCall call = {
        .tdx = tdx_guest(), .cpu = cpu, .env = env, .length = insn->length,
        .ra = insn->ra,
    };
    uint64_t rax = env->regs[R_EAX], status;

    if (insn->opcode != RESTRICTED_TDCALL
        || !(insn->prefix & RESTRICTED_DATA)) {
        return false;
    }
    if (!(env->hflags & HF_CS64_MASK) || env->hflags & HF_CPL_MASK) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, insn->ra);
    }
    if (!qatomic_read(&call.tdx->armed)) {
        /* And then execute this instruction again. */
        async_safe_run_on_cpu(cpu, arm, RUN_ON_CPU_HOST_PTR(call.tdx));
        restricted_execute_again(cpu, insn->ra);
    }
    call.vcpu = &call.tdx->vcpus[cpu->cpu_index];
    status = dispatch(&call);
    if (status != TDX_DEFERRED) {
        env->regs[R_EAX] = status;
    }
    trace_rmem_tdcall(cpu->cpu_index, rax, env->regs[R_ECX], status);
    return true;
}
