# Stateless decoders: v4l2slh264dec, v4l2slh265dec.

PACKAGECONFIG:append:spotter = " v4l2codecs"
