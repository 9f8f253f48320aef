/** The engine's reasons to close a connection, in words. */
import { abi, errnoName } from '../../../native/index.js';
import { limits } from '../../base/limits.js';

const MESSAGES: Readonly<Record<number, string>> = {
  [abi.CLOSE_LOCAL]: 'closed by us',
  [abi.CLOSE_PEER]: 'closed by the peer',
  [abi.CLOSE_PEER_MID_FRAME]: 'closed by the peer in the middle of a message',
  [abi.CLOSE_CONNECT_FAILED]: 'cannot connect',
  [abi.CLOSE_RECEIVE_FAILED]: 'receiving failed',
  [abi.CLOSE_SEND_FAILED]: 'sending failed',
  [abi.CLOSE_BAD_MAGIC]: 'protocol error: what arrived is no Braid frame (wrong magic)',
  [abi.CLOSE_BAD_HEADER_CHECKSUM]: 'protocol error: the checksum of a frame header is wrong',
  [abi.CLOSE_BAD_VERSION]: 'protocol error: a frame of an unknown protocol version',
  [abi.CLOSE_PAYLOAD_TOO_LARGE]: `protocol error: a frame announces more than ${limits.payloadBytesMax} bytes of payload`,
  [abi.CLOSE_UNANNOUNCED_REPLY]: 'protocol error: a READ reply names no buffer that waits for it',
  [abi.CLOSE_BAD_TABLE_CHECKSUM]: 'protocol error: the checksum of a checksum table is wrong',
  [abi.CLOSE_BAD_PAYLOAD_CHECKSUM]: 'protocol error: the payload of a frame does not match its checksums',
  [abi.CLOSE_TOO_MANY_READS]: `protocol error: more than ${limits.framesQueuedPerConnectionMax} READ requests without a reply`,
  [abi.CLOSE_NBD_BAD_MAGIC]: 'protocol error: what arrived is no NBD request (wrong magic)',
  [abi.CLOSE_NBD_WRITE_TOO_LARGE]: `protocol error: an NBD write of more than ${limits.nbdRequestBytesMax} bytes`,
  [abi.CLOSE_NBD_LEFTOVER_TOO_LARGE]: 'protocol error: too many requests before the NBD handshake was over',
  [abi.CLOSE_PEER_DOES_NOT_READ]: `the peer does not read what is sent to it (nothing for ${limits.sendStallMs / 1000} s, or too much is queued)`,
  [abi.CLOSE_STOPPED]: 'the engine has stopped',
  [abi.CLOSE_RESOLVE_FAILED]: 'cannot connect: the host name cannot be resolved',
};

export function closeReason(reason: number, errno: number): string {
  const message = MESSAGES[reason] ?? `close reason ${reason}`;
  return errno === 0 ? message : `${message}: ${errnoName(errno)}`;
}
