# SPDX-License-Identifier: GPL-2.0-or-later
"""The row of each profile: one value of ``--coco`` each.  Pure.

To add a profile, add its row here and its rules to plugin/core/transitions.toml.
"""

from dataclasses import replace
from typing import Final

from cvmlab.profiles.architecture import AARCH64, ARCHITECTURES, X86_64
from cvmlab.profiles.profile import (
    Attestation,
    DiskRefusal,
    GuestObject,
    HostPolicy,
    Interface,
    OptionCheck,
    Profile,
    Profiles,
)


_SEABIOS_SHARES_NOTHING: Final = DiskRefusal(
    firmware="seabios", reason="SeaBIOS cannot share its disk buffers"
)
# What a host tells of an AMD processor.
_SEV_PROCESSOR: Final = ("cbitpos=51", "reduced-phys-bits=1")

# What sets and clears the shared mark of Linux' page tables, for every technology, and accessors.
_THIN: Final = (
    "set_memory_encrypted", "set_memory_decrypted", "__set_memory_enc_dec", "__set_memory_enc_pgtable",
    "early_set_memory_encrypted", "early_set_memory_decrypted", "early_set_memory_enc_dec",
    "early_set_mem_enc_dec_hypercall", "set_memory_p", "dma_set_decrypted", "dma_set_encrypted",
    "dma_direct_alloc", "dma_direct_free",
    "accept_memory", "arch_accept_memory",
    "native_cpuid", "native_read_msr*", "native_write_msr*", "native_io_delay",
    "iowrite8*", "iowrite16*", "iowrite32*", "ioread8*", "ioread16*", "ioread32*",
    "vp_notify", "vp_notify_with_data", "virtqueue_notify", "virtqueue_kick",
)  # fmt: skip
# arch/x86/coco/tdx and arch/x86/virt/vmx/tdx: the calls themselves, and what asks for a page's state.
_THIN_TDX: Final = (
    "__tdcall*", "__tdx_hypercall*", "_tdx_hypercall", "__tdx_module_call", "tdcall", "__trace_tdx*",
    "tdx_map_gpa", "tdx_enc_status_changed*", "tdx_enc_status_change_*", "tdx_accept_memory",
    "try_accept_one", "try_accept_page", "tdx_accept_page",
)  # fmt: skip
# arch/x86/coco/sev, arch/x86/kernel/sev*.c and arch/x86/mm/mem_encrypt_amd.c.
_THIN_SEV: Final = (
    "sev_es_ghcb_hv_call", "sev_es_wr_ghcb_msr", "vmgexit_psc", "__set_pages_state", "set_pages_state",
    "early_set_pages_state", "snp_set_memory_*", "early_snp_set_memory_*", "snp_accept_memory",
    "pvalidate*", "__pvalidate*", "pval_pages", "svsm_pval_*", "svsm_perform_*", "__page_state_change",
    "amd_enc_status_change_*", "enc_dec_hypercall", "notify_range_enc_status_changed",
    "kvm_sev_hypercall3", "kvm_hypercall3", "__set_clr_pte_enc", "set_clr_pte_enc*",
)  # fmt: skip
# arch/arm64/include/asm/rsi*.h, arch/arm64/kernel/rsi.c, arch/arm64/mm/pageattr.c, smccc-call.S.
_THIN_CCA: Final = (
    "__arm_smccc_*", "arm_smccc_*", "rsi_*", "__rsi_*", "realm_set_memory_*", "arm64_rsi_*",
    "set_memory_range_*", "__set_memory_range_*", "realm_set_*",
)  # fmt: skip
_PENDING, _SHARED, _PRIVATE, _ACCEPTED, _BAD = (
    "use-before-acceptance",
    "shared-page-used-as-private",
    "private-page-used-as-shared",
    "acceptance-of-a-shared-page",
    "poisoned-page",
)
# Intel TDX module 1.5, base architecture specification: "Secure EPT concepts".
_TDX_WORDS: Final = (
    (
        _PENDING,
        "EPT violation: the page is PENDING, TDG.MEM.PAGE.ACCEPT has not been called for it",
    ),
    (_SHARED, "EPT violation: shared by MapGPA, so the secure EPT has no page at its private GPA"),
    (_PRIVATE, "EPT violation: the S-bit is set, and the shared EPT does not map the page"),
    (_ACCEPTED, "TDG.MEM.PAGE.ACCEPT: EPT violation, the secure EPT has no page at this GPA"),
)
# APM volume 2, 15.36.10: "RMP and VMPL access checks", and 15.34.
_SNP_WORDS: Final = (
    (_PENDING, "#VC 0x404, page not validated: PVALIDATE has not been executed for it"),
    (_SHARED, "RMP check: C-bit 1, and the page is not assigned to the guest"),
    (_PRIVATE, "C-bit 0 for a page that is assigned to the guest"),
)
_SEV_WORDS: Final = (
    (_SHARED, "C-bit 1 for a page that is shared: it would read as noise"),
    (_PRIVATE, "C-bit 0 for an encrypted page: it would read as ciphertext"),
)

# RMM (Arm DEN0137), A5.2: "Realm IPA space".
_CCA_WORDS: Final = (
    (_SHARED, "synchronous external abort: RIPAS of the page is EMPTY"),
    (_PRIVATE, "synchronous external abort: an Unprotected IPA where the host has no memory"),
    (_BAD, "RIPAS of the page is DESTROYED: the realm exits to its host, which cannot go on"),
)

_GENERIC: Final = Profile(
    name="generic",
    restricted=True,
    architectures=ARCHITECTURES.names,
    guest_object=None,
    cpu_model=None,
    interface=None,
    attestation=None,
    host_policy=None,
    image=None,
    sharing_firmware=None,
    disk_refusals=(),
    upgrade_refusal=None,
    costs=None,
    thin_functions=_THIN,
    fault_words=(),
)

_NO_HANDLER: Final = "on hardware it dies at the first CPUID, port or MSR that raises"

_TDX: Final = Profile(
    name="tdx",
    restricted=True,
    architectures=(X86_64.name,),
    guest_object=GuestObject(type="tdx-guest", defaults=(), check=None),
    cpu_model="sapphire-rapids",
    interface=Interface(
        name="TDX",
        proof="TDCALL",
        silence="never spoke TDX",
        required=True,
        config="CONFIG_INTEL_TDX_GUEST",
        since=(5, 19),
        fate=f"{_NO_HANDLER} #VE, which it does not handle",
        dies_here=False,
        late="",
    ),
    attestation=Attestation(
        service="tdx-quotes",
        socket_property="quote-generation-socket",
        certificates_property=None,
        driver="tdx-guest",
        driver_helpers=(),
    ),
    host_policy=HostPolicy(
        option="mapgpa",
        call="MapGPA",
        subject="MapGPA",
        properties="map-gpa",
        synonyms=(),
        effect="Linux gives up a conversion that is refused, or retried three times without progress; "
        "then its drivers have no shared memory",
    ),
    image=None,
    sharing_firmware="ovmf",
    disk_refusals=(_SEABIOS_SHARES_NOTHING,),
    upgrade_refusal=None,
    costs="tdx",
    thin_functions=(*_THIN, *_THIN_TDX),
    fault_words=_TDX_WORDS,
)

# Plain SEV asks nothing of the kernel but the C-bit: the plugin counts its first use for code.
_SEV_INTERFACE: Final = Interface(
    name="SEV",
    proof="page of code mapped with the C-bit",
    silence="never spoke SEV",
    required=True,
    config="CONFIG_AMD_MEM_ENCRYPT",
    since=(4, 15),
    fate="on hardware it reads its encrypted memory as noise",
    dies_here=False,
    late="",
)

_SEV: Final = Profile(
    name="sev",
    restricted=True,
    architectures=(X86_64.name,),
    guest_object=GuestObject(type="sev-guest", defaults=_SEV_PROCESSOR, check=None),
    cpu_model="milan",
    interface=_SEV_INTERFACE,
    attestation=None,
    host_policy=None,
    image=None,
    sharing_firmware="ovmf",
    disk_refusals=(_SEABIOS_SHARES_NOTHING,),
    upgrade_refusal=None,
    costs=None,
    thin_functions=(*_THIN, *_THIN_SEV),
    fault_words=_SEV_WORDS,
)

_CCA: Final = Profile(
    name="cca",
    restricted=True,
    architectures=(AARCH64.name,),
    guest_object=GuestObject(type="rme-guest", defaults=(), check=None),
    cpu_model=None,
    interface=Interface(
        name="RSI",
        proof="RSI call",
        silence="never asked for RSI",
        required=True,
        # Linux has no option for it: each kernel since then looks for a realm monitor.
        config="",
        since=(6, 13),
        fate="a realm that does not ask aborts at its first access to a device",
        dies_here=True,
        late="the firmware ran unprotected: memory is the realm's from the kernel's RSI_REALM_CONFIG on",
    ),
    attestation=Attestation(
        service="cca-tokens",
        socket_property="attestation-token-socket",
        driver="arm-cca-guest",
        driver_helpers=(),
        certificates_property=None,
    ),
    host_policy=HostPolicy(
        option="ripas",
        call="RSI_IPA_STATE_SET",
        subject="RIPAS",
        properties="ripas",
        synonyms=(("partial", "max"),),
        effect="Linux panics when its RAM is refused, before it has a console, and calls again for a part "
        "or a retry, however often",
    ),
    image="debian-arm64-backports",
    sharing_firmware="ovmf",
    disk_refusals=(),
    upgrade_refusal=None,
    costs=None,
    thin_functions=(*_THIN, *_THIN_CCA),
    fault_words=_CCA_WORDS,
)

PROFILES: Final = Profiles(
    (
        _GENERIC,
        replace(
            _GENERIC,
            name="sw-protected",
            architectures=(X86_64.name,),
            # Linux makes this call only for a technology that it finds; a test guest may make it.
            interface=Interface(
                name="KVM's software protection",
                proof="KVM_HC_MAP_GPA_RANGE",
                silence="never spoke KVM's software protection",
                required=False,
                config="",
                since=(5, 17),
                fate="",
                dies_here=False,
                late="",
            ),
        ),
        _TDX,
        _SEV,
        replace(
            _SEV,
            name="sev-es",
            interface=replace(
                _SEV_INTERFACE,
                name="SEV-ES",
                silence="never spoke SEV-ES",
                proof="VMGEXIT",
                since=(5, 10),
                fate=f"{_NO_HANDLER} #VC, which it does not handle",
            ),
            # Policy: no debugging (bit 0), encrypted state (bit 2).
            guest_object=GuestObject(
                type="sev-guest", defaults=(*_SEV_PROCESSOR, "policy=0x5"), check=None
            ),
        ),
        replace(
            _SEV,
            name="sev-snp",
            interface=replace(
                _SEV_INTERFACE,
                name="SEV-SNP",
                silence="never spoke SEV-SNP",
                proof="VMGEXIT or PVALIDATE",
                since=(5, 19),
                fate=f"{_NO_HANDLER} #VC, which it does not handle",
            ),
            fault_words=_SNP_WORDS,
            guest_object=GuestObject(
                type="sev-snp-guest",
                defaults=_SEV_PROCESSOR,
                check=OptionCheck(
                    name="id-block", options=("id-block", "id-auth", "author-key-enabled")
                ),
            ),
            cpu_model="genoa",
            attestation=Attestation(
                service="snp-requests",
                socket_property="guest-request-socket",
                certificates_property="certs-path",
                driver="sev-guest",
                # Linux 6.12 seals its messages with these; later kernels need none of them.
                driver_helpers=("gcm", "ctr", "ghash_generic"),
            ),
        ),
        _CCA,
        # The same machine with ordinary memory, to compare with.
        replace(
            _GENERIC,
            name="off",
            restricted=False,
            upgrade_refusal="its memory belongs to the QEMU process",
        ),
    )
)

DEFAULT_PROFILE: Final = _GENERIC.name
NO_PROFILE: Final = "off"
