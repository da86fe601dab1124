/*
 * Restricted memory in QEMU: shared between the files of this directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Lock order: BQL, then RestrictedMemory.lock. The latter is taken by
 * whoever changes page states other than by rmem_touch(); it is a leaf, and
 * so is seen_lock.
 */

#ifndef HW_RESTRICTED_MEMORY_RESTRICTED_H
#define HW_RESTRICTED_MEMORY_RESTRICTED_H

#include "exec/memory.h"
#include "qapi/qapi-types-restricted-memory.h"
#include "qemu/thread.h"
#include "qom/object.h"
#include "system/hostmem.h"
#include "hw/restricted-memory/hooks.h"
#include "hw/restricted-memory/rmem.h"

#define TYPE_MEMORY_BACKEND_RESTRICTED "memory-backend-restricted"
OBJECT_DECLARE_SIMPLE_TYPE(RestrictedMemory, MEMORY_BACKEND_RESTRICTED)

#define TYPE_RESTRICTED_GUARD "restricted-memory-guard"

/* Where the two views of RAM sit in the CPU root: above any guest address. */
#define RESTRICTED_PRIVATE_VIEW (UINT64_C(1) << 60)
#define RESTRICTED_SHARED_VIEW  (UINT64_C(1) << 61)

typedef struct RestrictedSlot {
    hwaddr gpa;
    uint64_t offset;
    uint64_t size;
} RestrictedSlot;

/* Somebody in the host who touches guest memory. */
typedef struct RestrictedActor {
    RmemActor kind;
    uint16_t index;             /* stands for it in the event ring */
    const char *name;           /* NULL: a PCI device, see bus and devfn */
    struct PCIBus *bus;         /* NULL: no device, or it is gone; BQL */
    int devfn;
    uint64_t faults;            /* atomic */
    uint64_t converted;         /* atomic */
    GHashTable *seen;           /* page << 1 | write; RestrictedMemory.seen_lock */
    uint64_t seen_generation;   /* likewise */
} RestrictedActor;

/* Stands in for RAM where the host looks: passes shared, judges the rest. */
typedef struct RestrictedGuard {
    IOMMUMemoryRegion iommu;
    RestrictedMemory *rm;
    RestrictedActor *actor;     /* NULL: whoever runs; ask each time */
    bool cpu_physical;          /* in the CPU root: a guest CPU's non-TLB access */
    uint64_t uniform;           /* atomic: last block found all shared */
} RestrictedGuard;

/* A guarded address space of one device. */
typedef struct RestrictedSpace {
    RestrictedActor actor;
    RestrictedGuard guard;
    MemoryRegion root;
    MemoryRegion system;
    AddressSpace as;
} RestrictedSpace;

/* The view of RAM that an address asks for, where one of its bits says so. */
typedef enum RestrictedWant {
    RESTRICTED_BY_STATE,        /* whichever the page is in */
    RESTRICTED_PRIVATE,
    RESTRICTED_SHARED,
} RestrictedWant;

typedef struct RestrictedAlias {
    hwaddr gpa;                 /* without the bit */
    RestrictedWant want;
} RestrictedAlias;

/* An instruction that only guests with restricted memory have. */
typedef struct RestrictedInsn {
    CPUState *cpu;
    uint8_t opcode;             /* RESTRICTED_*, see hooks.h */
    uint8_t prefix;             /* RESTRICTED_REPZ, ... */
    int length;
    uintptr_t ra;
} RestrictedInsn;

/* As PREFIX_* in translate.c */
enum { RESTRICTED_REPZ = 1, RESTRICTED_REPNZ = 2, RESTRICTED_DATA = 8,
       RESTRICTED_ADR = 16 };

/* What a guest interface adds to the rules; see profiles/. */
typedef struct RestrictedProfile {
    const char *name;
    bool (*cpuid)(CPUState *cpu, uint32_t index, uint32_t subindex,
                  uint32_t regs[4]);
    bool (*hypercall)(RestrictedMemory *rm, CPUState *cpu);
    bool touch_is_fault;        /* touching a pending page is a memory-fault exit */
    bool devices_load;          /* until the launch ends, all devices are trusted */
    /* Optional. The backend is complete, no CPU exists yet. */
    bool (*attach)(RestrictedMemory *rm, Error **errp);
    /* Optional. The machine is complete, slots are known, no reset yet. */
    bool (*machine_done)(RestrictedMemory *rm, Error **errp);
    /* Optional. After each reset of the machine, the first included. BQL. */
    void (*launch)(RestrictedMemory *rm);
    /* Optional: what a guest physical address asks for. */
    RestrictedAlias (*alias)(const RestrictedMemory *rm,
                             const RestrictedFill *fill);
    /* With alias: a page is not in the view asked for. Does not return. */
    void (*fault)(RestrictedMemory *rm, const RestrictedFill *fill,
                  RestrictedAlias alias, RmemState state);
    /* Optional. Does the guest hold the private page at @gpa for shared? */
    bool (*is_shared_untold)(RestrictedMemory *rm, hwaddr gpa);
    /* Optional. The address is in no slot: where is it in the CPU root? */
    hwaddr (*mmio)(RestrictedMemory *rm, const RestrictedFill *fill,
                   RestrictedAlias alias);
    /* Optional: false if there is no such instruction in this guest. */
    bool (*instruction)(RestrictedMemory *rm, const RestrictedInsn *insn);
    /* Optional, see hooks.h. */
    bool (*msr)(CPUState *cpu, uint32_t index, bool write, uint64_t *value,
                uintptr_t ra);
    void (*sipi)(RestrictedMemory *rm, CPUState *cpu);
    bool (*hashes)(RestrictedMemory *rm);
    void (*hash)(RestrictedMemory *rm,
                 const struct SevKernelLoaderContext *context);
    bool (*has_work)(CPUState *cpu);
    void (*intercept)(CPUState *cpu, uint32_t type, uint64_t param,
                      uintptr_t ra);
} RestrictedProfile;

enum { RESTRICTED_FD_PRIVATE, RESTRICTED_FD_SHARED, RESTRICTED_FD_TABLE,
       RESTRICTED_FD_RING, RESTRICTED_FDS };

struct RestrictedMemory {
    HostMemoryBackend parent_obj;

    /* Properties */
    char *profile_name;
    bool layout_set;
    RestrictedMemoryLayout layout;
    RestrictedMemoryPolicy policy;      /* atomic after realize */
    RestrictedMemoryPending pending;
    RestrictedMemoryEvents events;
    bool debuggable;
    int64_t fds[RESTRICTED_FDS];

    /* State */
    Rmem core;
    const RestrictedProfile *profile;
    QemuMutex lock;                     /* see top of file */
    RestrictedSlot *slots;              /* fixed once the machine is done */
    unsigned nslots;
    bool sealed;                        /* atomic: the loader is not trusted any more */
    bool stub_awaited;                  /* atomic: see efi-stub.c */
    uint64_t noise;                     /* seed of this launch, see scramble.c */
    unsigned held;                      /* invalidations begun; BQL */
    bool held_running;

    /* Regions */
    MemoryRegion private_ram;
    MemoryRegion shared_ram;            /* split layout only */
    MemoryRegion blocked;               /* bus error, reads zeros */
    MemoryRegion zero;                  /* reads zeros, drops writes */
    AddressSpace private_as, shared_as, blocked_as, zero_as;
    RestrictedGuard guard;              /* what system memory sees */
    RestrictedGuard cpu_guard;          /* what the CPU root sees below the views */
    MemoryRegion cpu_root, cpu_system;
    GPtrArray *spaces;                  /* RestrictedSpace, BQL */
    GPtrArray *actors;                  /* RestrictedActor, append only, BQL */
    RestrictedActor monitor, gdb, host, loader;
    RestrictedActor *fw_cfg;            /* one of the spaces' actors */
    QemuMutex seen_lock;                /* a leaf */

    Error *migration_blocker;
    Notifier machine_done;
};

/* The backend in use, NULL if none. Set once, never cleared. */
RestrictedMemory *restricted_memory(void);

/* The backend of that id; NULL and @errp if there is none. */
RestrictedMemory *restricted_memory_by_id(const char *id, Error **errp);

static inline bool restricted_is_split(const RestrictedMemory *rm)
{
    return rm->layout == RESTRICTED_MEMORY_LAYOUT_SPLIT;
}

static inline MemoryRegion *restricted_shared_ram(RestrictedMemory *rm)
{
    return restricted_is_split(rm) ? &rm->shared_ram : &rm->private_ram;
}

/* backend.c */
const RestrictedProfile *restricted_profile_find(const char *name);
uint64_t restricted_offset_to_gpa(const RestrictedMemory *rm, uint64_t offset);
/* The slot that holds @gpa, NULL if it is not RAM of the backend. */
const RestrictedSlot *restricted_slot(const RestrictedMemory *rm, hwaddr gpa);

/* files.c */
extern const char *const restricted_fd_property[RESTRICTED_FDS];
/* Make the RAM blocks, of one file or of two. */
bool restricted_files_ram(RestrictedMemory *rm, Error **errp);
/* Map page-state table and event ring. */
bool restricted_files_map(RestrictedMemory *rm, const RmemProfile *rules,
                          Error **errp);

/* guard.c */
void restricted_guard_init(RestrictedMemory *rm);
/* Make a guard in place of RAM; @actor NULL: ask each time who it is. */
void restricted_guard_setup(RestrictedMemory *rm, RestrictedGuard *guard,
                            RestrictedActor *actor, const char *name);

/* judge.c */
typedef struct RestrictedAccess {
    RestrictedMemory *rm;
    RestrictedActor *actor;
    uint64_t offset;
    bool write;
} RestrictedAccess;

/* A host access to a page that is not shared: where does it go? */
AddressSpace *restricted_judge(const RestrictedAccess *access, RmemState state);

/* spaces.c */
void restricted_spaces_init(RestrictedMemory *rm);
void restricted_spaces_machine_done(RestrictedMemory *rm);
void restricted_map_slots(RestrictedMemory *rm, MemoryRegion *root,
                          MemoryRegion *target, hwaddr base, const char *name);
void restricted_actor_add(RestrictedMemory *rm, RestrictedActor *actor,
                          RmemActor kind, const char *name);
char *restricted_actor_name(const RestrictedActor *actor);
RestrictedActor *restricted_actor_running(RestrictedMemory *rm, bool debug);

/* cpu-view.c */
void restricted_cpu_view_init(RestrictedMemory *rm);
void restricted_cpu_view_machine_done(RestrictedMemory *rm);
/*
 * A guest CPU touches a page. Returns the state it is in then: pending only
 * if nothing but acceptance makes it usable.
 */
RmemState restricted_cpu_touch(RestrictedMemory *rm, uint64_t page);
/* Journal a guest touch of @gpa that @state forbids. */
void restricted_guest_fault(RestrictedMemory *rm, const RestrictedFill *fill,
                            hwaddr gpa, RmemState state);
/* Pause the VM; the touch is tried again when it goes on. */
G_NORETURN void restricted_fill_stop(const RestrictedFill *fill);
/* Pause the VM; this vCPU, if it is one, before its next instruction. */
void restricted_stop_vm(void);
/* Leave the guest, and come back to the same instruction. */
G_NORETURN void restricted_fill_again(const RestrictedFill *fill);
/*
 * An access of the CPU itself, to deliver an exception or an interrupt: if
 * that faults again, nobody would ever handle it.
 */
bool restricted_fill_is_delivery(const RestrictedFill *fill);
uint64_t restricted_guest_rip(CPUState *cpu);

/* convert.c */
typedef struct RestrictedPages {
    uint64_t first;
    uint64_t count;
} RestrictedPages;

typedef struct RestrictedChange {
    const RestrictedPages *ranges;
    size_t n;
    RmemEvent event;
    bool preserve;              /* keep content across the two files */
    RmemActor actor;
    uint64_t rip;
    uint64_t changed;           /* out: pages */
    RmemRefusal refusal;        /* out */
    uint64_t bad;               /* out: page that refused */
} RestrictedChange;

/*
 * Change states of all ranges or of none; no guest CPU may run meanwhile.
 * Guest CPUs see the result before their next instruction.
 */
bool restricted_change(RestrictedMemory *rm, RestrictedChange *change,
                       Error **errp);
/*
 * Share one page while guest CPUs run. With two files its content is lost, so
 * no CPU may be using it as private.
 */
bool restricted_share_page(RestrictedMemory *rm, uint64_t page,
                           RmemState *old);
/* Fresh launch: everything pending, no storage. */
void restricted_reset(void *opaque);

/* tlb.c */
/* Forget what TLBs hold. No guest CPU runs, so this thread may. */
void restricted_flush(void);
/* Of these pages only, whoever maps them. */
void restricted_flush_pages(RestrictedMemory *rm, const RestrictedPages *pages);
/* Before the next instruction of each CPU. */
void restricted_flush_later(void);

/* scramble.c */
/* Where the profile scrambles: put noise where @page is, if it is stale. */
void restricted_do_settle(RestrictedMemory *rm, uint64_t page);

/* Before the content of @page is reached, by whomever, on the side it is on. */
static inline void restricted_settle(RestrictedMemory *rm, uint64_t page)
{
    if (unlikely(rm->core.profile->scrambles)
        && rmem_any_stale(&rm->core, page, 1)) {
        restricted_do_settle(rm, page);
    }
}

/* launch.c */
void restricted_launch_machine_done(RestrictedMemory *rm);
/* The page's contents are part of the launch image: private, with storage. */
void restricted_load(RestrictedMemory *rm, const RestrictedPages *pages);
/* No more loading: from now on, the loader is a device like any other. */
void restricted_seal(RestrictedMemory *rm);
/* Pages of [gpa, gpa + size); false if they are not all RAM of one slot. */
bool restricted_pages(const RestrictedMemory *rm, hwaddr gpa, uint64_t size,
                      RestrictedPages *pages);
/* What of [gpa, gpa + size) is in @slot; false if nothing is. */
bool restricted_slot_part(const RestrictedSlot *slot, hwaddr gpa,
                          uint64_t size, RestrictedPages *pages);
/* Content of pages that are all in @state, else NULL. */
uint8_t *restricted_ram(RestrictedMemory *rm, hwaddr gpa, uint64_t size,
                        RmemState state);

/* firmware.c: what -bios has loaded below 4 GiB */
uint64_t restricted_firmware_size(void);
/* Its content at @gpa; NULL if not all of it is firmware. */
uint8_t *restricted_firmware_at(uint64_t gpa, uint64_t size);
/* Read the file, before the machine is built; NULL if it cannot be read. */
uint8_t *restricted_firmware_read(gsize *size);
/* The kernel takes what SeaBIOS reserves for ACPI data. */
void restricted_adopt_acpi_tables(const RestrictedMemory *rm);

/* kvm-hypercall.c: as KVM */
/* Its signature and @features; false: not one of its leaves. */
bool restricted_kvm_cpuid(uint32_t index, uint32_t features,
                          uint32_t regs[4]);
#define RESTRICTED_KVM_MAP_GPA_RANGE (1u << 16)
#define RESTRICTED_KVM_MIGRATION     (1u << 17)
/* KVM_HC_MAP_GPA_RANGE, and its refusal of all others; a profile's hypercall. */
bool restricted_kvm_hypercall(RestrictedMemory *rm, CPUState *cpu);

/* efi-stub.c */
void restricted_stub_machine_done(RestrictedMemory *rm);
void restricted_stub_reset(RestrictedMemory *rm);
/* While stub_awaited: code is fetched from a page of RAM with that content. */
void restricted_stub_fetch(RestrictedMemory *rm, CPUState *cpu,
                           const uint8_t *page);

/* events.c */
void restricted_events_init(RestrictedMemory *rm);
void restricted_record(RestrictedMemory *rm, RmemRecord *rec);
/* Journal a guest request that was refused. */
void restricted_violation(RestrictedMemory *rm, hwaddr gpa, uint64_t pages,
                          RmemRefusal refusal, uint64_t rip);
void restricted_phase(RestrictedMemory *rm, RmemPhase phase);

/* handover.c */
bool restricted_handover_init(RestrictedMemory *rm, Error **errp);
/* Only with its memory in place can a guest come from another QEMU. */
bool restricted_handover_check(Error **errp);
/* Is the guest still in another QEMU? Then memory is not ours to touch. */
bool restricted_incoming(void);
/* May this process change page states? BQL. */
bool restricted_own(RestrictedMemory *rm, Error **errp);

/* refuse.c */
void restricted_refuse_init(RestrictedMemory *rm);
bool restricted_refuse_machine(RestrictedMemory *rm, Error **errp);

#endif
