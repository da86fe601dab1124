/*
 * TDX: what the host is told about a TD, in QEMU's place.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * query-sev takes any guest object for one of AMD's, and QEMU aborts.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "monitor/monitor.h"
#include "hw/restricted-memory/qemu/commands.h"
#include "hw/restricted-memory/profiles/tdx/query.h"

static void query_sev(QDict *args, QObject **ret, Error **errp)
{
    error_setg(errp, "SEV is not enabled: the guest is a TD");
}

static void info_sev(Monitor *mon, const QDict *args)
{
    monitor_printf(mon, "SEV is not enabled\n");
}

void tdx_query_init(void)
{
    restricted_commands_qmp("query-sev", query_sev);
    restricted_commands_hmp("sev", true, info_sev);
}
