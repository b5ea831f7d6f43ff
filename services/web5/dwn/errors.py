"""The errors of a node as the profile publishes them: an HTTP status and a code before the text."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """The error codes of dwn-sdk-js 0.5; those below the line exist in this node only."""

    AUTHENTICATE_DESCRIPTOR_CID_MISMATCH = "AuthenticateDescriptorCidMismatch"
    AUTHENTICATE_JWS_MISSING = "AuthenticateJwsMissing"
    AUTHENTICATION_MORE_THAN_ONE_SIGNATURE = "AuthenticationMoreThanOneSignatureNotSupported"
    JWS_PAYLOAD_INVALID = "JwsDecodePlainObjectPayloadInvalid"
    PROTOCOL_ACTION_NOT_ALLOWED = "ProtocolAuthorizationActionNotAllowed"
    PROTOCOL_ACTION_RULES_NOT_FOUND = "ProtocolAuthorizationActionRulesNotFound"
    PROTOCOL_INCORRECT_CONTEXT_ID = "ProtocolAuthorizationIncorrectContextId"
    PROTOCOL_INCORRECT_DATA_FORMAT = "ProtocolAuthorizationIncorrectDataFormat"
    PROTOCOL_INCORRECT_PATH = "ProtocolAuthorizationIncorrectProtocolPath"
    PROTOCOL_INVALID_SCHEMA = "ProtocolAuthorizationInvalidSchema"
    PROTOCOL_INVALID_TYPE = "ProtocolAuthorizationInvalidType"
    PROTOCOL_MAX_SIZE_INVALID = "ProtocolAuthorizationMaxSizeInvalid"
    PROTOCOL_MIN_SIZE_INVALID = "ProtocolAuthorizationMinSizeInvalid"
    PROTOCOL_MISSING_RULE_SET = "ProtocolAuthorizationMissingRuleSet"
    PROTOCOL_NOT_A_ROLE = "ProtocolAuthorizationNotARole"
    PROTOCOL_NOT_FOUND = "ProtocolAuthorizationProtocolNotFound"
    PROTOCOL_PARENTLESS_INCORRECT_PATH = "ProtocolAuthorizationParentlessIncorrectProtocolPath"
    PROTOCOL_TAGS_INVALID_SCHEMA = "ProtocolAuthorizationTagsInvalidSchema"
    PROTOCOLS_CONFIGURE_AUTHORIZATION_FAILED = "ProtocolsConfigureAuthorizationFailed"
    PROTOCOLS_CONFIGURE_DELETE_WITHOUT_CREATE = "ProtocolsConfigureInvalidActionDeleteWithoutCreate"
    PROTOCOLS_CONFIGURE_DEPTH_EXCEEDED = "ProtocolsConfigureRecordNestingDepthExceeded"
    PROTOCOLS_CONFIGURE_DUPLICATE_ACTOR = "ProtocolsConfigureDuplicateActorInRuleSet"
    PROTOCOLS_CONFIGURE_INVALID_RECORD_TYPE = "ProtocolsConfigureInvalidRuleSetRecordType"
    PROTOCOLS_CONFIGURE_INVALID_SIZE = "ProtocolsConfigureInvalidSize"
    PROTOCOLS_CONFIGURE_INVALID_TAG_SCHEMA = "ProtocolsConfigureInvalidTagSchema"
    PROTOCOLS_CONFIGURE_MISSING_OF = "ProtocolsConfigureInvalidActionMissingOf"
    PROTOCOLS_CONFIGURE_OF_NOT_ALLOWED = "ProtocolsConfigureInvalidActionOfNotAllowed"
    PROTOCOLS_CONFIGURE_RECIPIENT_OF = "ProtocolsConfigureInvalidRecipientOfAction"
    PROTOCOLS_CONFIGURE_UPDATE_WITHOUT_CREATE = "ProtocolsConfigureInvalidActionUpdateWithoutCreate"
    PUBLIC_KEY_NOT_FOUND = "GeneralJwsVerifierGetPublicKeyNotFound"
    RECORDS_DELETE_AUTHORIZATION_FAILED = "RecordsDeleteAuthorizationFailed"
    RECORDS_QUERY_FILTER_MISSING = "RecordsQueryFilterMissingRequiredProperties"
    RECORDS_QUERY_SORT_INVALID = "RecordsQueryParseFilterPublishedSortInvalid"
    RECORDS_READ_AUTHORIZATION_FAILED = "RecordsReadAuthorizationFailed"
    RECORDS_READ_RETURNED_MULTIPLE = "RecordsReadReturnedMultiple"
    RECORDS_WRITE_AUTHORIZATION_FAILED = "RecordsWriteAuthorizationFailed"
    RECORDS_WRITE_CONTEXT_ID_MISMATCH = "RecordsWriteValidateIntegrityContextIdMismatch"
    RECORDS_WRITE_CONTEXT_ID_UNSIGNED = (
        "RecordsWriteValidateIntegrityContextIdNotInSignerSignaturePayload"
    )
    RECORDS_WRITE_DATA_CID_MISMATCH = "RecordsWriteDataCidMismatch"
    RECORDS_WRITE_DATA_SIZE_MISMATCH = "RecordsWriteDataSizeMismatch"
    RECORDS_WRITE_DATE_CREATED_MISMATCH = "RecordsWriteValidateIntegrityDateCreatedMismatch"
    RECORDS_WRITE_IMMUTABLE_CHANGED = "RecordsWriteImmutablePropertyChanged"
    RECORDS_WRITE_INITIAL_NOT_FOUND = "RecordsWriteGetInitialWriteNotFound"
    RECORDS_WRITE_MISSING_DATA = "RecordsWriteMissingEncodedDataInPrevious"
    RECORDS_WRITE_NOT_AFTER_DELETE = "RecordsWriteNotAllowedAfterDelete"
    RECORDS_WRITE_RECORD_ID_UNAUTHORIZED = "RecordsWriteValidateIntegrityRecordIdUnauthorized"
    SCHEMA_ADDITIONAL_PROPERTY = "SchemaValidatorAdditionalPropertyNotAllowed"
    SCHEMA_FAILURE = "SchemaValidatorFailure"
    SCHEMA_NOT_FOUND = "SchemaValidatorSchemaNotFound"
    SIGNATURE_INVALID = "GeneralJwsVerifierInvalidSignature"
    TIMESTAMP_INVALID = "TimestampInvalid"
    URL_PROTOCOL_NOT_NORMALIZED = "UrlProtocolNotNormalized"
    URL_SCHEMA_NOT_NORMALIZED = "UrlSchemaNotNormalized"
    # ---
    JWS_HEADER_INVALID = "JwsHeaderInvalid"
    MESSAGE_TIMESTAMP_IN_FUTURE = "MessageTimestampInFuture"
    NOT_SUPPORTED = "NotSupported"
    SIGNER_NOT_RESOLVED = "SignerNotResolved"


class DwnError(Exception):
    """A message that the node rejects; the error becomes the status of the reply."""

    status = 400

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def detail(self) -> str:
        return f"{self.code}: {self}"


class UnauthorizedError(DwnError):
    """A message without a valid signature, or whose author lacks the permission."""

    status = 401


class NotSupportedError(DwnError):
    """A part of the profile that this node does not implement."""

    status = 501

    def __init__(self, text: str) -> None:
        super().__init__(Code.NOT_SUPPORTED, text)
