"""A local Azure IoT Hub: the device side that azure-iot-device speaks, the service REST side, durable state."""
