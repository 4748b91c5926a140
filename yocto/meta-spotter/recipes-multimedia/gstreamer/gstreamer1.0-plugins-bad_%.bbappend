# Stateless decoders: v4l2slh264dec, v4l2slh265dec.

PACKAGECONFIG:append:spotteros = " v4l2codecs"
