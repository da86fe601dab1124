# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs for other machines: MQTT and Prometheus."""
