/*
 * SEV: what the host is told about an emulated guest (query-sev, info sev).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU's own answer is about a guest of KVM.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qobject-output-visitor.h"
#include "monitor/monitor.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/commands.h"
#include "hw/restricted-memory/profiles/sev/query.h"

#if QEMU_IS_AT_LEAST(11, 0)
#include "qapi/qapi-visit-misc-i386.h"
#else
#include "qapi/qapi-visit-misc-target.h"
#endif

/* As in the report of an emulated PSP (control/cvmlab/attestation). */
enum { API_MAJOR = 1, API_MINOR = 55 };

/* KVM finishes the launch when the guest is about to run. */
static SevState guest_state(const SevGuest *sev)
{
    if (qatomic_read(&sev->rm->core.shared->phase) != RMEM_PH_LAUNCH) {
        return SEV_STATE_RUNNING;
    }
    return sev->level == SEV_SNP ? SEV_STATE_LAUNCH_UPDATE
                                 : SEV_STATE_LAUNCH_SECRET;
}

static SevInfo guest_info(const SevGuest *sev)
{
    SevInfo info = {
        .enabled = true, .api_major = API_MAJOR, .api_minor = API_MINOR,
        .state = guest_state(sev),
    };

    if (sev->level == SEV_SNP) {
        info.sev_type = SEV_GUEST_TYPE_SEV_SNP;
        info.u.sev_snp.snp_policy = sev->policy;
    } else {
        info.sev_type = SEV_GUEST_TYPE_SEV;
        info.u.sev.policy = sev->policy;
        info.u.sev.handle = 1;
    }
    return info;
}

static void query_sev(QDict *args, QObject **ret, Error **errp)
{
    Visitor *v = qobject_output_visitor_new(ret);
    SevInfo info = guest_info(sev_guest()), *at = &info;

    if (visit_type_SevInfo(v, "unused", &at, errp)) {
        visit_complete(v, ret);
    }
    visit_free(v);
}

static void info_sev(Monitor *mon, const QDict *args)
{
    const SevGuest *sev = sev_guest();
    SevInfo info = guest_info(sev);

    monitor_printf(mon, "SEV type: %s\nstate: %s\nbuild: %d\n"
                   "api version: %d.%d\ndebug: %s\n",
                   SevGuestType_str(info.sev_type), SevState_str(info.state),
                   info.build_id, info.api_major, info.api_minor,
                   sev->rm->debuggable ? "on" : "off");
}

void sev_query_init(void)
{
    restricted_commands_qmp("query-sev", query_sev);
    restricted_commands_hmp("sev", true, info_sev);
}
