# meta-raspberrypi adds faad with the commercial licences that H.264 needs: spotter decodes no AAC, and no layer that it asks for has faad2.
PACKAGECONFIG:remove:spotteros = "faad"
