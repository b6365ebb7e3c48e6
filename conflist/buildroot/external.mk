include $(sort $(wildcard $(BR2_EXTERNAL_VXCAN_PATH)/package/*/*.mk))
