/*
 * Monitor commands that restricted memory refuses or answers itself.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU looks commands up in two tables. Once the machine is complete, a command
 * that would read all memory, or that shows CPU state which is the guest's,
 * gets another function there: QMP, HMP and gdb's monitor packet all meet it.
 * What such a command can do is written down for each command of QEMU in
 * tests/qemu/surface.toml.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-net.h"
#include "qobject/qdict.h"
#include "monitor/hmp.h"
#include "monitor/monitor-internal.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/commands.h"
#include "hw/restricted-memory/qemu/cpu-state.h"
#include "hw/restricted-memory/qemu/dump.h"
#include "hw/restricted-memory/qemu/handover.h"
#include "hw/restricted-memory/qemu/logs.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/refuse.h"

typedef enum CommandTable { QMP, HMP, HMP_INFO } CommandTable;

/* Refused as a whole; names that this QEMU does not have are skipped. */
static const struct {
    RestrictedWhole whole;
    CommandTable table;
    const char *name;
} refused[] = {
    { RESTRICTED_ALL_MEMORY, QMP, "calc-dirty-rate" },
    { RESTRICTED_ALL_MEMORY, QMP, "dump-guest-memory" },
    { RESTRICTED_ALL_MEMORY, QMP, "query-firmware-log" },
    { RESTRICTED_ALL_MEMORY, QMP, "snapshot-load" },
    { RESTRICTED_ALL_MEMORY, QMP, "snapshot-save" },
    { RESTRICTED_ALL_MEMORY, QMP, "xen-load-devices-state" },
    { RESTRICTED_ALL_MEMORY, QMP, "xen-save-devices-state" },
    { RESTRICTED_ALL_MEMORY, HMP, "calc_dirty_rate" },
    { RESTRICTED_ALL_MEMORY, HMP, "dump-guest-memory" },
    { RESTRICTED_ALL_MEMORY, HMP, "loadvm" },
    { RESTRICTED_ALL_MEMORY, HMP, "savevm" },
    { RESTRICTED_ALL_MEMORY, HMP_INFO, "firmware-log" },
    { RESTRICTED_CPU_STATE, QMP, "memsave" },
    { RESTRICTED_CPU_STATE, HMP, "gva2gpa" },
    { RESTRICTED_CPU_STATE, HMP, "mce" },
    { RESTRICTED_CPU_STATE, HMP, "memsave" },
    { RESTRICTED_CPU_STATE, HMP, "x" },
    { RESTRICTED_CPU_STATE, HMP_INFO, "lapic" },
    { RESTRICTED_CPU_STATE, HMP_INFO, "mem" },
    { RESTRICTED_CPU_STATE, HMP_INFO, "registers" },
    { RESTRICTED_CPU_STATE, HMP_INFO, "tlb" },
};

/* What there was before. */
static struct {
    QmpCommandFunc *migrate, *netdev_add;
    RestrictedHmp *hmp_migrate, *hmp_netdev_add;
} stock;

QmpCommandFunc *restricted_commands_qmp(const char *name, QmpCommandFunc *ours)
{
    QmpCommand *command;

    QTAILQ_FOREACH(command, &qmp_commands, node) {
        if (!strcmp(command->name, name)) {
            QmpCommandFunc *before = command->fn;

            command->fn = ours;
            return before;
        }
    }
    return NULL;
}

static HMPCommand *hmp_table(bool info)
{
#if QEMU_IS_AT_LEAST(11, 0)
    return hmp_cmds_for_target(info);
#else
    HMPCommand *command = hmp_cmds;

    while (info && strcmp(command->name, "info")) {
        command++;
    }
    return info ? command->sub_table : command;
#endif
}

RestrictedHmp *restricted_commands_hmp(const char *name, bool info,
                                       RestrictedHmp *ours)
{
    HMPCommand *command = hmp_table(info);

    for (; command->name; command++) {
        if (hmp_compare_cmd(name, command->name)) {
            RestrictedHmp *before = command->cmd;

            command->cmd = ours;
            command->cmd_info_hrt = NULL;
            return before;
        }
    }
    return NULL;
}

static void qmp_whole_memory(QDict *args, QObject **ret, Error **errp)
{
    restricted_refuse(restricted_memory(), RESTRICTED_ALL_MEMORY, NULL, errp);
}

static void qmp_cpu_state(QDict *args, QObject **ret, Error **errp)
{
    restricted_refuse(restricted_memory(), RESTRICTED_CPU_STATE, NULL, errp);
}

static void hmp_refuse(Monitor *mon, QmpCommandFunc *refuse)
{
    Error *err = NULL;

    refuse(NULL, NULL, &err);
    hmp_handle_error(mon, err);
}

static void hmp_whole_memory(Monitor *mon, const QDict *args)
{
    hmp_refuse(mon, qmp_whole_memory);
}

static void hmp_cpu_state(Monitor *mon, const QDict *args)
{
    hmp_refuse(mon, qmp_cpu_state);
}

/* Its RAM is no part of a stream, but nothing else goes without it, either. */
static bool refuse_migration(Error **errp)
{
    RestrictedMemory *rm = restricted_memory();

    if (restricted_handover_is_on()) {
        return !restricted_may_intervene(errp);
    }
    restricted_refuse(rm, RESTRICTED_ALL_MEMORY, NULL, NULL);
    error_propagate(errp, error_copy(rm->migration_blocker));
    return true;
}

static void qmp_migrate_checked(QDict *args, QObject **ret, Error **errp)
{
    if (!refuse_migration(errp)) {
        stock.migrate(args, ret, errp);
    }
}

static void hmp_migrate_checked(Monitor *mon, const QDict *args)
{
    Error *err = NULL;

    if (!refuse_migration(&err)) {
        stock.hmp_migrate(mon, args);
    }
    hmp_handle_error(mon, err);
}

static void qmp_netdev_checked(QDict *args, QObject **ret, Error **errp)
{
    g_autofree char *id = g_strdup(qdict_get_try_str(args, "id"));
    Error *err = NULL;

    stock.netdev_add(args, ret, &err);
    if (!err && restricted_refuse_vhost(&err)) {
        qmp_netdev_del(id, NULL);
    }
    error_propagate(errp, err);
}

static void hmp_netdev_checked(Monitor *mon, const QDict *args)
{
    const char *id = qdict_get_try_str(args, "id");
    Error *err = NULL;

    stock.hmp_netdev_add(mon, args);
    if (restricted_refuse_vhost(&err)) {
        qmp_netdev_del(id, NULL);
    }
    hmp_handle_error(mon, err);
}

void restricted_commands_machine_done(RestrictedMemory *rm)
{
    bool hidden = restricted_state_is_hidden(rm);

    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        bool state = refused[i].whole == RESTRICTED_CPU_STATE;

        if (state && !hidden) {
            continue;
        }
        if (refused[i].table == QMP) {
            restricted_commands_qmp(refused[i].name, state ? qmp_cpu_state
                                                           : qmp_whole_memory);
        } else {
            restricted_commands_hmp(refused[i].name,
                                    refused[i].table == HMP_INFO,
                                    state ? hmp_cpu_state : hmp_whole_memory);
        }
    }
    stock.migrate = restricted_commands_qmp("migrate", qmp_migrate_checked);
    stock.hmp_migrate = restricted_commands_hmp("migrate", false,
                                                hmp_migrate_checked);
    stock.netdev_add = restricted_commands_qmp("netdev_add",
                                               qmp_netdev_checked);
    stock.hmp_netdev_add = restricted_commands_hmp("netdev_add", false,
                                                   hmp_netdev_checked);
    restricted_debugger_machine_done(rm);
    restricted_logs_machine_done(rm);
}
