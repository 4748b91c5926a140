// SPDX-License-Identifier: GPL-2.0
/*
 * Hands "tryboot" of `reboot "0 tryboot"` to the Raspberry Pi's firmware; it decides nothing.
 *
 * Raspberry Pi's own kernel does this in its firmware driver. Mainline's, which Debian ships, does not, and without it an update
 * could be made the standing choice only, with no way back when it does not start.
 */
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/of.h>
#include <linux/reboot.h>
#include <linux/string.h>
#include <soc/bcm2835/raspberrypi-firmware.h>

/* Not in mainline's list of the firmware's properties. */
#define SET_REBOOT_FLAGS 0x00038064
#define FLAG_TRYBOOT 1

static struct rpi_firmware *firmware;

static int restarting(struct notifier_block *block, unsigned long action, void *command)
{
	u32 flags = FLAG_TRYBOOT;
	int error;

	if (action != SYS_RESTART || !command || !strstr(command, "tryboot"))
		return NOTIFY_DONE;
	error = rpi_firmware_property(firmware, SET_REBOOT_FLAGS, &flags, sizeof(flags));
	if (error)
		pr_err("spotter-tryboot: the firmware takes no tryboot flag (%d): the old system starts again\n", error);
	else
		pr_info("spotter-tryboot: the firmware will try the other system once\n");
	return NOTIFY_DONE;
}

static struct notifier_block block = { .notifier_call = restarting };

static int __init start(void)
{
	struct device_node *node = of_find_compatible_node(NULL, NULL, "raspberrypi,bcm2835-firmware");

	if (!node)
		return -ENODEV;
	firmware = rpi_firmware_get(node);
	of_node_put(node);
	if (!firmware)
		return -EPROBE_DEFER;
	return register_reboot_notifier(&block);
}

static void __exit stop(void)
{
	unregister_reboot_notifier(&block);
	rpi_firmware_put(firmware);
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Hands the tryboot flag to the Raspberry Pi's firmware");
