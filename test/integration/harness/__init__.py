# SPDX-License-Identifier: Apache-2.0
"""What the integration tests stand on: a real httpd, scripted backends, raw clients, an oracle."""
