// SPDX-License-Identifier: GPL-2.0
/*
 * What Raspberry Pi's own kernel does with the firmware and mainline's, which Debian ships, does not: hands "tryboot" of
 * `reboot "0 tryboot"` to it, and tells its temperature and what slows the processor. It decides nothing.
 *
 * Without the first an update could be made the standing choice only, with no way back when it does not start. Without the rest
 * nobody hears of a weak power supply, and of heat on the Pi 4 only: mainline knows no sensor of the Pi 5. These are an
 * addition: the module stays for the first where they cannot be had.
 */
#include <linux/device.h>
#include <linux/err.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/of.h>
#include <linux/platform_device.h>
#include <linux/reboot.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/thermal.h>
#include <soc/bcm2835/raspberrypi-firmware.h>

/* Not in mainline's list of the firmware's properties. */
#define SET_REBOOT_FLAGS 0x00038064
#define FLAG_TRYBOOT 1

static struct rpi_firmware *firmware;
static struct platform_device *place;
static struct thermal_zone_device *zone;

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

/* In thousandths of a degree Celsius. */
static int temperature(struct thermal_zone_device *asked, int *millidegrees)
{
	struct { __le32 id, value; } message = { 0, 0 };
	int error = rpi_firmware_property(firmware, RPI_FIRMWARE_GET_TEMPERATURE, &message, sizeof(message));

	if (!error)
		*millidegrees = le32_to_cpu(message.value);
	return error;
}

static const struct thermal_zone_device_ops operations = { .get_temp = temperature };

/* The bits of `vcgencmd get_throttled`, in hexadecimal as Raspberry Pi's own kernel writes them. */
static ssize_t get_throttled_show(struct device *device, struct device_attribute *attribute, char *text)
{
	/* None of the bits that tell of the time since the start is to be forgotten. */
	u32 bits = 0;
	int error = rpi_firmware_property(firmware, RPI_FIRMWARE_GET_THROTTLED, &bits, sizeof(bits));

	return error ? error : sysfs_emit(text, "%x\n", bits);
}
static DEVICE_ATTR_RO(get_throttled);

static void tell(void)
{
	int error;

	place = platform_device_register_simple("spotter-firmware", PLATFORM_DEVID_NONE, NULL, 0);
	error = IS_ERR(place) ? PTR_ERR(place) : device_create_file(&place->dev, &dev_attr_get_throttled);
	if (error)
		pr_warn("spotter-tryboot: what slows the processor is not told (%d)\n", error);
	zone = thermal_tripless_zone_device_register("rpi-firmware", NULL, &operations, NULL);
	error = IS_ERR(zone) ? PTR_ERR(zone) : thermal_zone_device_enable(zone);
	if (error)
		pr_warn("spotter-tryboot: the firmware's temperature is not told (%d)\n", error);
}

static int __init start(void)
{
	struct device_node *node = of_find_compatible_node(NULL, NULL, "raspberrypi,bcm2835-firmware");
	int error;

	if (!node)
		return -ENODEV;
	firmware = rpi_firmware_get(node);
	of_node_put(node);
	if (!firmware)
		return -EPROBE_DEFER;
	error = register_reboot_notifier(&block);
	if (error)
		rpi_firmware_put(firmware);
	else
		tell();
	return error;
}

static void __exit stop(void)
{
	if (!IS_ERR(zone))
		thermal_zone_device_unregister(zone);
	/* Its file goes with it. */
	if (!IS_ERR(place))
		platform_device_unregister(place);
	unregister_reboot_notifier(&block);
	rpi_firmware_put(firmware);
}

module_init(start);
module_exit(stop);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Hands the tryboot flag to the Raspberry Pi's firmware, tells its temperature and throttling");
