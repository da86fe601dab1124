/*
 * TDG.VM.RD/WR, TDG.VP.RD/WR, TDG.SYS.RD/RDALL: fields of the TD and the
 * module.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A field is named by class and code (ABI, "MD_FIELD_ID"); the size and
 * context bits of the identifier add nothing and are ignored.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/profiles/tdx/leaves.h"
#include "hw/restricted-memory/profiles/tdx/memory.h"
#include "hw/restricted-memory/profiles/tdx/virtual.h"

#define FIELD_CLASS(id)     ((id) >> 56 & 0x3f)
#define FIELD_CODE(id)      ((id) & 0xffffff)
#define FIELD_NONE          UINT64_MAX
#define FIELD_64_BIT        (UINT64_C(3) << 32)

enum { CLASS_TD_CONTROL = 0x11, CLASS_SYS_VERSION = 8,
       CLASS_SYS_FEATURES = 10 };

/* ABI, "CONFIG_FLAGS" */
#define CONFIG_GPAW_52      (UINT64_C(1) << 0)

typedef struct TdxField {
    uint8_t class;
    uint32_t code;
    uint64_t (*get)(const TdxGuest *tdx);
    uint64_t mask;                  /* writable bits, 0: not writable */
    bool (*set)(TdxGuest *tdx, uint64_t value);
} TdxField;

static uint64_t get_attributes(const TdxGuest *tdx)
{
    return tdx->attributes;
}

static uint64_t get_xfam(const TdxGuest *tdx)
{
    return tdx_xfam(cpu_env(first_cpu));
}

static uint64_t get_notify(const TdxGuest *tdx)
{
    return tdx->notify_enables;
}

static bool set_notify(TdxGuest *tdx, uint64_t value)
{
    tdx->notify_enables = value;
    return true;
}

static uint64_t get_config(const TdxGuest *tdx)
{
    return tdx->gpaw == 52 ? CONFIG_GPAW_52 : 0;
}

static uint64_t get_td_ctls(const TdxGuest *tdx)
{
    return qatomic_read(&tdx->td_ctls);
}

/*
 * PENDING_VE_DISABLE is fixed, because CONFIG_FLAGS says that it is not
 * flexible; TDX_FEATURES0 shows no REDUCE_VE.
 */
static bool set_td_ctls(TdxGuest *tdx, uint64_t value)
{
    return value == tdx->td_ctls;
}

static uint64_t get_zero(const TdxGuest *tdx)
{
    return 0;
}

static const TdxField td_fields[] = {
    { CLASS_TD_CONTROL, 0, get_attributes },
    { CLASS_TD_CONTROL, 1, get_xfam },
    { CLASS_TD_CONTROL, 0x10, get_notify, 1, set_notify },
    { CLASS_TD_CONTROL, 0x16, get_config },
    { CLASS_TD_CONTROL, 0x17, get_td_ctls, UINT64_MAX, set_td_ctls },
    { CLASS_TD_CONTROL, 0x19, get_zero },       /* TOPOLOGY_ENUM_CONFIGURED */
};

static const TdxField sys_fields[] = {
    { CLASS_SYS_FEATURES, 8, get_zero },        /* TDX_FEATURES0: none */
};

static const TdxField *find(const TdxField *fields, size_t n, uint64_t id)
{
    for (size_t i = 0; i < n; i++) {
        if (fields[i].class == FIELD_CLASS(id)
            && fields[i].code == FIELD_CODE(id)) {
            return &fields[i];
        }
    }
    return NULL;
}

/* In: RCX 0 (this TD), RDX field. Out: R8 value. */
uint64_t tdx_vm_rd(TdxCall *call)
{
    uint64_t *regs = call->env->regs;
    const TdxField *field = find(td_fields, ARRAY_SIZE(td_fields),
                                 regs[R_EDX]);

    regs[R_R8] = 0;
    if (regs[R_ECX]) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    if (!field) {
        return TDX_FIELD_ID_INCORRECT;
    }
    regs[R_R8] = field->get(call->tdx);
    return TDX_SUCCESS;
}

/* In: RCX 0, RDX field, R8 value, R9 mask. Out: R8 old value. */
uint64_t tdx_vm_wr(TdxCall *call)
{
    uint64_t *regs = call->env->regs;
    const TdxField *field = find(td_fields, ARRAY_SIZE(td_fields),
                                 regs[R_EDX]);
    uint64_t value = regs[R_R8], mask = regs[R_R9], old;

    regs[R_R8] = 0;
    if (regs[R_ECX]) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    if (!field) {
        return TDX_FIELD_ID_INCORRECT;
    }
    mask &= field->mask;
    if (!mask) {
        return TDX_FIELD_NOT_WRITABLE;
    }
    old = field->get(call->tdx);
    if (!field->set(call->tdx, (old & ~mask) | (value & mask))) {
        return TDX_FIELD_VALUE_NOT_VALID;
    }
    regs[R_R8] = old;
    return TDX_SUCCESS;
}

/* A TD has no access to fields of its own vCPUs, only to those of L2 VMs. */
uint64_t tdx_vp_rd_wr(TdxCall *call)
{
    call->env->regs[R_R8] = 0;
    return TDX_FIELD_ID_INCORRECT;
}

/* In: RDX field. Out: RDX next field (none that we list), R8 value. */
uint64_t tdx_sys_rd(TdxCall *call)
{
    uint64_t *regs = call->env->regs;
    const TdxField *field = find(sys_fields, ARRAY_SIZE(sys_fields),
                                 regs[R_EDX]);

    regs[R_EDX] = FIELD_NONE;
    regs[R_R8] = 0;
    if (!field) {
        return TDX_FIELD_ID_INCORRECT;
    }
    regs[R_R8] = field->get(call->tdx);
    return TDX_SUCCESS;
}

/* ABI, "MD_LIST_HEADER" and "MD_FIELD_ID" as a sequence's header */
static uint64_t list_header(size_t words, size_t sequences)
{
    return words * sizeof(uint64_t) | (uint64_t)sequences << 16;
}

static uint64_t sequence_header(const TdxField *field)
{
    return (uint64_t)field->class << 56 | FIELD_64_BIT | field->code;
}

/*
 * In: RDX page for the list, R8 first field, or FIELD_NONE. Out: R8 the first
 * field without room: FIELD_NONE. No two fields are adjacent in their class, so
 * each is a sequence of its own.
 */
uint64_t tdx_sys_rdall(TdxCall *call)
{
    const TdxField *end = sys_fields + ARRAY_SIZE(sys_fields), *field;
    uint64_t *regs = call->env->regs, first = regs[R_R8];
    uint64_t list[1 + 2 * ARRAY_SIZE(sys_fields)];
    size_t n = 1;

    regs[R_R8] = FIELD_NONE;
    if (regs[R_EDX] & (RMEM_PAGE_SIZE - 1)
        || !tdx_read(call, regs[R_EDX], list, sizeof(list[0]),
                     TDX_PRIVATE_ONLY)) {
        return TDX_OPERAND_INVALID | TDX_RDX;
    }
    field = first == FIELD_NONE ? sys_fields
                                : find(sys_fields, ARRAY_SIZE(sys_fields), first);
    if (!field) {
        return TDX_FIELD_ID_INCORRECT;
    }
    for (; field < end; field++) {
        list[n++] = cpu_to_le64(sequence_header(field));
        list[n++] = cpu_to_le64(field->get(call->tdx));
    }
    list[0] = cpu_to_le64(list_header(n, n / 2));
    return tdx_write(call, regs[R_EDX], list, n * sizeof(list[0]),
                     TDX_PRIVATE_ONLY)
           ? TDX_SUCCESS : TDX_OPERAND_INVALID | TDX_RDX;
}
